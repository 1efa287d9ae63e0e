"""A session: the sides to compare, the sets under a protocol, the accelerator and the store, opened once for a command."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from accelerate import Accelerator
from torch import nn
from transformers import BaseImageProcessor

from ..class_names.imagenet import class_names
from ..class_names.label_mapping import check_same_classes, classes_of_model
from ..models.digest import model_digest, weights_digest
from ..models.loading import load_model
from ..models.preprocessing import Preset, load_processor
from ..models.registry import MODELS, find_model
from ..relevance.architectures import VisionTransformer, unwrap_pretrained
from ..results.published import PAPER_SETS
from ..utils.lock import folder_lock
from ..utils.processes import make_accelerator
from ..utils.publishable import public_name
from .options import PairOptions
from .sets import EvaluationSet
from .store import Store


@dataclass(frozen=True)
class Side:
    """A model that is measured.

    Args:
        model: image classification model on the accelerator's device.
        processor: its image processor.
        source: what the user named it by.
        digest: of weights and configuration, see [`model_digest`].
        weights: of the weights alone, by which published results name them.
    """

    model: nn.Module
    processor: BaseImageProcessor
    source: str
    digest: str
    weights: str

    @property
    def name(self) -> str:
        """Its name as it may be published."""
        return public_name(self.source)

    @classmethod
    def of(cls, model: nn.Module, processor: BaseImageProcessor, source: str = "") -> Self:
        """A side with the digests of its model as it is now."""
        return cls(model, processor, source, model_digest(model), weights_digest(model))


@dataclass(frozen=True)
class Session:
    """What the measurements of a command share.

    Args:
        sides: by name, such as `before` and `after`; all have the same classes.
        sets: by name, with labels of the models.
        preset: preprocessing of the sides, and protocol of the sets.
    """

    sides: Mapping[str, Side]
    sets: Mapping[str, EvaluationSet]
    accelerator: Accelerator
    store: Store = field(default_factory=lambda: Store(None))
    preset: Preset = "paper"

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the models."""
        return classes_of_model(unwrap_pretrained(next(iter(self.sides.values())).model).config)

    @property
    def label_names(self) -> dict[int, str]:
        """Names of the classes by label. Sets of the paper are of ImageNet, whose names not every model has."""
        return dict(enumerate(class_names() if PAPER_SETS.keys() & self.sets.keys() else self.classes))

    @property
    def paper_model(self) -> str | None:
        """The paper's name of the model before, if it is a registered one."""
        registered = find_model(self.sides["before"].source)
        return MODELS[registered].paper_name if registered else None

    def under(self, preset: Preset) -> "Session":
        """The session with the preprocessing of another preset, and without sets."""
        sides = {
            name: replace(side, processor=load_processor(side.source, preset, side.model))
            for name, side in self.sides.items()
        }
        return replace(self, sides=sides, sets={}, preset=preset)

    def with_sets(self, sets: Mapping[str, EvaluationSet]) -> "Session":
        """The session with these sets, whose labels become those of the models.

        Raises:
            ValueError: a set that the models were not made for.
        """
        config = unwrap_pretrained(next(iter(self.sides.values())).model).config
        return replace(self, sets={name: rows.for_model(name, config) for name, rows in sets.items()})

    def inputs(self, side: str, rows: EvaluationSet) -> dict:
        """What a result of a side on a set depends on, as a JSON object."""
        measured = self.sides[side]
        return {
            "model": measured.digest,
            "precision": self.accelerator.mixed_precision,
            "images": len(rows.dataset),
            "rows": rows.digest,
            "processor": json.loads(measured.processor.to_json_string()),
        }


@contextmanager
def open_session(
    options: PairOptions,
    preset: Preset,
    output_dir: Path | None = None,
    *,
    bf16: bool = False,
    shared: Path | None = None,
) -> Iterator[Session]:
    """Context with the session of a command: the models that the options name, and a store.

    Args:
        output_dir: folder of the store, which no other process writes meanwhile; by default nothing is kept.
        shared: as for [`Store`].

    Raises:
        BlockingIOError: another process writes the folder.
        OSError: there is no such model.
        ValueError: the models have other classes, or one cannot be loaded.
    """
    accelerator = make_accelerator(bf16)
    with folder_lock(output_dir, "evaluation") if output_dir and accelerator.is_main_process else nullcontext():
        names = {"before": options.model} | ({"after": options.compare} if options.compare else {})
        yield Session(load_sides(names, preset, accelerator), {}, accelerator, Store(output_dir, shared), preset)


def load_sides(
    names: Mapping[str, str], preset: Preset, accelerator: Accelerator, *, with_maps: bool = False
) -> dict[str, Side]:
    """Models with their processors by side. Names and errors are those of [`load_model`].

    Args:
        with_maps: whether to refuse a model that has no relevance map.

    Raises:
        ValueError: they have other classes, or as [`VisionTransformer`].
    """
    models = {side: load_model(name).to(accelerator.device) for side, name in names.items()}
    if with_maps:
        for model in models.values():
            VisionTransformer(model)
    first, *others = (classes_of_model(model.config) for model in models.values())
    for classes in others:
        check_same_classes(first, classes)
    return {
        side: Side.of(model, load_processor(names[side], preset, model), names[side]) for side, model in models.items()
    }
