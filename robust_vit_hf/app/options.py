"""Options of `robust-vit app`."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.named_sets import NamedSource, expand_sets
from ..evaluation.options import PRESET
from ..models.model_names import BUNDLED_MODEL
from ..models.preprocessing import Preset
from ..utils.options import Options, Range, option


@dataclass(kw_only=True)
class GalleryOptions(Options):
    """Sources of results and images."""

    GROUP = "options of results and images"

    results: Path | None = option(
        None,
        "output of `robust-vit evaluate`; without it, the sets of the bundled benchmark are measured in the page",
    )
    dataset: str | None = option(None, "labelled images of your own: the examples, and the gallery of --results")
    split: str = option("validation", "split of --dataset")
    sets: list[NamedSource] = option([], "sets that were evaluated", metavar="NAME=PATH_OR_ID")

    def __post_init__(self):
        super().__post_init__()
        self.sets = expand_sets(self.sets)


@dataclass(kw_only=True)
class AppOptions(GalleryOptions):
    """Look at two models, before and after finetuning, in a page: relevance maps of your own images, of examples and of evaluated
    sets, and predictions for objects on other backgrounds.

      robust-vit app                                                     the bundled model, and its newest finetuning in runs/
      robust-vit app --model vit-b --compare runs/vit-b
      robust-vit app --compare runs/emoji-shift --results runs/robustness
      robust-vit app --model my-vit --dataset photos --diagnose runs/diagnosis
      robust-vit app --model my-vit --compare runs/better --dataset photos --diagnose runs/better
      robust-vit app --model OWNER/BEFORE --compare OWNER/AFTER --export space

    Without --compare and without a finetuning in runs/, the bundled model is finetuned once, in about a minute, and kept in the cache
    of `datasets`.
    """

    model: str = option(BUNDLED_MODEL, "name, folder or Hub id; the bundled model by default")
    compare: str | None = option(None, "the model after finetuning; a model of your own is shown alone without it")
    diagnose: Path | None = option(
        None,
        "output of `robust-vit diagnose`, or of `robust-vit improve`: its images on other backgrounds, to click through",
        metavar="FOLDER",
    )
    preset: Preset | None = option(None, PRESET)
    host: str = option(
        "127.0.0.1",
        "address to listen on (default: 127.0.0.1)",
    )
    allowed_hosts: list[str] = option(
        [],
        "further names or addresses under which the page may be asked for, such as that of a proxy, without a port; `*` for all",
        metavar="NAME",
    )
    port: int | None = option(None, "port (default: the first free one from 7860 on)", Range(1, 65535))
    export: Path | None = option(
        None, "write a Space of the page, with the pictures of --diagnose, and do not serve it", metavar="FOLDER"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in self.allowed_hosts:
            if name != "*" and not re.fullmatch(r"[\w.-]+|\[?[\da-f]*(:[\da-f]*){2,}\]?", name, re.IGNORECASE):
                raise ValueError(
                    f"--allowed_hosts {name}: expected a name or an address alone, without scheme, port and path"
                )
        if self.model != BUNDLED_MODEL and self.compare is None and self.results is not None:
            raise ValueError("--results needs --compare, the model after finetuning")
        if self.export is not None and self.compare is None:
            raise ValueError("--export needs --compare, the Hub id of the model after finetuning")
        unread = {"results": None, "dataset": None, "sets": [], "host": "127.0.0.1", "allowed_hosts": [], "port": None}
        if self.export is not None and (
            given := [name for name, none in unread.items() if getattr(self, name) != none]
        ):
            raise ValueError(f"--{given[0]} has no effect on --export, which writes a page for the Hub: leave it out")
