"""A session: models to compare, evaluation sets, accelerator and output folder of one command."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor, default_data_collator

from ..data.classes import are_of_imagenet, check_same_classes, class_names, classes_of_model
from ..data.find_images import Images
from ..data.known_sets import EVALUATION_SETS
from ..models.added_classifiers import OwnClassifier, OwnProcessor
from ..models.image_processors import Protocol, load_processor, resolve_protocol, squashing
from ..models.loading import check_single_label, load_model, model_digest, weights_digest
from ..relevance.architectures import VisionTransformer, unwrap_pretrained, why_no_map
from ..relevance.layer_cam import map_name
from ..utils.cache import Cache
from ..utils.privacy import public_name
from ..utils.processes import make_accelerator
from .sets import EvaluationSet


@dataclass(frozen=True)
class Side:
    """A model to measure, with its image processor, and its name as given by the user."""

    model: nn.Module
    processor: BaseImageProcessor
    source: str
    digest: str  # digest of weights and configuration, see [`model_digest`]
    weights: str  # digest of the weights only, which identifies them in published results

    @property
    def name(self) -> str:
        return public_name(self.source)

    @classmethod
    def of(cls, model: nn.Module, processor: BaseImageProcessor, source: str = "") -> Self:
        """Side with digests of the model's current weights."""
        weights = weights_digest(model)
        return cls(model, processor, source, model_digest(model, weights), weights)

    @classmethod
    def of_object(
        cls,
        model: nn.Module | Callable,
        processor: BaseImageProcessor | None = None,
        classes: Sequence[str] | None = None,
        transform: Callable | None = None,
    ) -> Self:
        """Side of a model of transformers with its `processor`, or of a function or torch module, see
        [`OwnClassifier`]."""
        if hasattr(model, "config"):
            if not hasattr(processor, "to_json_string") or classes is not None or transform is not None:
                raise ValueError("The model needs its image processor (`processor=…`), not `classes` or `transform`.")
            check_single_label(model)
            name = model.config._name_or_path or type(unwrap_pretrained(model)).__name__
            return cls.of(model, squashing(processor), name)
        if classes is None or transform is None or processor is not None:
            raise ValueError("A function needs `classes` and a `transform` to tensors (3, H, W), and no `processor`.")
        name = getattr(model, "__name__", type(model).__name__)
        return cls.of(OwnClassifier(model, classes), OwnProcessor(transform), name)


@contextmanager
def given_model(model: str | Path | nn.Module | Callable, **parts: Any) -> Iterator[tuple[str, Side | None]]:
    """Context for a model: its name, and its side if it is given in Python. Its modes and device are restored at the
    end."""
    if isinstance(model, str | Path):
        if own := [f"`{name}`" for name, part in parts.items() if part is not None]:
            raise ValueError(f"`{model}` names a model: leave out {', '.join(own)}, or give the model itself.")
        yield str(model), None
        return
    modules = [*model.modules()] if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    devices = [parameter.device for parameter in model.parameters()] if modules else []
    try:
        side = Side.of_object(model, **parts)
        yield side.source, side
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training
        if devices:
            model.to(devices[0])


@dataclass(frozen=True)
class Session:
    """Which models a command measures, on which sets, and where it saves results."""

    sides: Mapping[str, Side]  # such as `before` and `after`, all with the same classes
    sets: Mapping[str, EvaluationSet]  # labels are class indices of the models
    accelerator: Accelerator
    folder: Path | None = None  # of the command's output
    cache: Cache | None = None  # of measurements; `None` to measure anew
    protocol: Protocol = "paper"  # preprocessing of the sides and protocol of the sets
    passes: tuple[int, int] = (32, 0)  # batch size, and number of processes that read images
    settings: dict = field(default_factory=dict)  # options of the command, which are recorded in its results

    @property
    def classes(self) -> list[str]:
        return classes_of_model(unwrap_pretrained(next(iter(self.sides.values())).model).config)

    @property
    def label_names(self) -> dict[int, str]:
        """Class names by label. They are the names of ImageNet for its sets, unless the models have another order."""
        of_imagenet = not self.sets.keys().isdisjoint(EVALUATION_SETS) and are_of_imagenet(self.classes)
        return dict(enumerate(class_names() if of_imagenet else self.classes))

    @property
    def map_name(self) -> str | None:
        """The name of the maps of all models, see [`map_name`]; `None` if they have none, or maps of two kinds."""
        names = {map_name(side.model) for side in self.sides.values()}
        return names.pop() if len(names) == 1 else None

    @property
    def without_map(self) -> list[str]:
        """Sentences on models without relevance maps: the reason, and what is shown instead."""
        reasons = filter(None, (why_no_map(side.model) for side in self.sides.values()))
        shown = f"Maps show {self.map_name}, which is not comparable." if self.map_name else "No maps are shown."
        return [f"Relevance is left out: {reason} {shown}" for reason in dict.fromkeys(reasons)]

    @property
    def notes(self) -> list[str]:
        """What a report says of the images that were left out, and [`without_map`]."""
        return [*(note for rows in self.sets.values() for note in rows.notes), *self.without_map]

    def check_maps(self) -> None:
        for side in self.sides.values():
            VisionTransformer(side.model)

    def under(self, protocol: Protocol) -> "Session":
        sides = {}
        for name, side in self.sides.items():
            sides[name] = replace(side, processor=load_processor(side.source, protocol, side.model))
        return replace(self, sides=sides, sets={}, protocol=protocol)

    def with_sets(self, sets: Mapping[str, EvaluationSet]) -> "Session":
        config = unwrap_pretrained(next(iter(self.sides.values())).model).config
        return replace(self, sets={name: rows.for_model(name, config) for name, rows in sets.items()})

    def with_images(
        self, images: Images, source: str | None = None, class_subset: tuple[int, ...] | None = None
    ) -> "Session":
        rows = EvaluationSet.of(images.rows, source=source, group_weights=images.group_weights)
        (rows,) = self.with_sets({images.name: rows}).sets.values()
        return replace(self, sets={images.name: replace(rows, class_subset=class_subset)})

    def loader(self, images: Dataset) -> DataLoader:
        return DataLoader(images, self.passes[0], num_workers=self.passes[1], collate_fn=default_data_collator)

    def inputs(self, side: Side, rows: EvaluationSet) -> dict:
        """What a side's outputs on a set depend on, as JSON values."""
        precision, processor = self.accelerator.mixed_precision, json.loads(side.processor.to_json_string())
        return {"model": side.digest, "precision": precision, "rows": rows.digest, "processor": processor}


class Models(NamedTuple):
    """Names of the models of a session, and the protocol of their images (by default as in [`resolve_protocol`])."""

    before: str
    after: str | None = None
    protocol: Protocol | None = None


@contextmanager
def open_session(
    models: Models,
    folder: Path | None = None,
    *,
    cache: Cache | None = None,
    bf16: bool = False,
    given: Side | None = None,
    passes: tuple[int, int] = (32, 0),
    settings: dict | None = None,
) -> Iterator[Session]:
    """Context of a session with these models; the first may be `given` instead. The output folder is locked, and has
    the cache, unless there is one that several commands use."""
    if given and models.protocol not in (None, "model"):
        raise ValueError("A model that is given in Python has its own preprocessing: leave out `protocol`.")
    protocol = "model" if given else resolve_protocol(models.protocol, models.before, models.after)
    accelerator = make_accelerator(bf16)
    names = {"before": models.before} | ({"after": models.after} if models.after else {})
    own = Cache(folder / "cache") if folder else None
    of_models = {Path(name).resolve() for name in names.values()}
    if (
        folder
        and (folder / "config.json").is_file()
        and (folder.resolve() in of_models or not (folder / "cache").is_dir())
    ):
        raise ValueError(f"`{folder}` has a model, whose files would be replaced: choose another --output_dir.")
    with own.lock() if own else nullcontext():
        sides = load_sides(names, protocol, accelerator, given)
        yield Session(sides, {}, accelerator, folder, cache or own, protocol, passes, settings or {})


def load_sides(
    names: Mapping[str, str], protocol: Protocol, accelerator: Accelerator, given: Side | None = None
) -> dict[str, Side]:
    """Load models of the same classes with their processors by side; `before` may be `given`."""
    sides = {}
    for side, name in names.items():
        if side == "before" and given is not None:
            sides[side] = given
        else:
            model = load_model(name)
            sides[side] = Side.of(model, load_processor(name, protocol, model), name)
        sides[side].model.to(accelerator.device)
    first, *others = (classes_of_model(unwrap_pretrained(side.model).config) for side in sides.values())
    for classes in others:
        check_same_classes(first, classes)
    return sides
