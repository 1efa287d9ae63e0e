"""Options of `robust-vit app`."""

from dataclasses import dataclass
from pathlib import Path

from ..evaluation.options import PROTOCOL, PairOptions, expand_sets
from ..masks.options import MASK_MODEL
from ..models.image_processors import Protocol
from ..models.model_names import BUNDLED_MODEL
from ..utils.options import Range, option


LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(kw_only=True)
class AppOptions(PairOptions):
    """Look at one model or two, before and after finetuning, in a page: relevance maps of your own images, of examples
    and of evaluated sets, and predictions for objects on other backgrounds.

      robust-vit app --model my-model --compare runs/better --dataset photographs --diagnose runs/better
      robust-vit app    # the bundled model, and its newest finetuning in runs/
      robust-vit app --compare runs/emoji-shift --results runs/robustness
      robust-vit app --model my-model --dataset photographs --diagnose runs/diagnosis
      robust-vit app --model OWNER/BEFORE --compare OWNER/AFTER --export space
    """

    compare: str | None = option(None, "the model after finetuning; without it, only your own --model is shown")
    results: Path | None = option(None, "output of `robust-vit evaluate` (default: sets of the bundled benchmark)")
    dataset: str | None = option(None, "your own labelled images, as examples and for the gallery of --results")
    sets: list[str] = option([], "sets that were evaluated", metavar="NAME=PATH_OR_ID")
    diagnose: Path | None = option(None, "output of `diagnose` or `improve`, to look through", metavar="FOLDER")
    mask_model: str | None = option(None, MASK_MODEL)
    protocol: Protocol | None = option(None, PROTOCOL)
    host: str = option("127.0.0.1", "address to listen on")
    allowed_hosts: list[str] = option([], "further names of the page, as of a proxy; `*` for all", metavar="NAME")
    port: int | None = option(None, "port (default: the first free one from 7860 on)", within=Range(1, 65535))
    export: Path | None = option(None, "write a Space with the pictures of --diagnose instead", metavar="FOLDER")

    def __post_init__(self):
        super().__post_init__()
        expand_sets(self.sets)  # raises errors
        has_results = self.model != BUNDLED_MODEL and self.results is not None
        if self.compare is None and (has_results or self.export is not None):
            raise ValueError("--results and --export need --compare, the finetuned model; --export needs its Hub id")
