"""Models to compare, evaluation sets, accelerator and output folder of one command, and how models are measured on sets."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import datasets
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, default_data_collator

from ..data.classes import are_of_imagenet, check_same_classes, class_names, classes_of_model
from ..data.find_images import Images
from ..data.known_sets import EVALUATION_SETS
from ..data.schema import undecoded
from ..models.added_classifiers import OwnClassifier, OwnProcessor
from ..models.image_processors import Protocol, load_processor, resolve_protocol, squashing
from ..models.loading import check_single_label, load_model, model_digest, weights_digest
from ..relevance.architectures import VisionTransformer, unwrap_pretrained, why_no_map
from ..relevance.layer_cam import map_name
from ..results.run_results import write_predictions
from ..results.tables import Table
from ..utils.cache import Cache
from ..utils.environment import environment
from ..utils.files import RESULTS_FILE, write_atomically, write_json
from ..utils.privacy import public_name, public_settings
from ..utils.processes import make_accelerator
from .sets import EvaluationSet


TABLES_FILE = "tables.md"


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
    def of_object(cls, model: nn.Module | Callable, **parts: Any) -> Self:
        """Side of a model of transformers with its `processor`, or of a function or torch module with the names of its
        `classes` and a `transform`, see [`OwnClassifier`]."""
        if hasattr(model, "config"):
            check_single_label(model)
            name = model.config._name_or_path or type(unwrap_pretrained(model)).__name__
            return cls.of(model, squashing(parts["processor"]), name)
        name = getattr(model, "__name__", type(model).__name__)
        return cls.of(OwnClassifier(model, parts["classes"]), OwnProcessor(parts["transform"]), name)


@contextmanager
def given_model(model: str | Path | nn.Module | Callable, **parts: Any) -> Iterator[tuple[str, Side | None]]:
    """Context for a model: its name, and its side if it is given in Python. Its modes and device are restored at the
    end."""
    kind, needed = "A function", {"classes", "transform"}
    if isinstance(model, str | Path):
        kind, needed = f"`{model}`", set()
    elif hasattr(model, "config"):
        kind, needed = "A model of transformers", {"processor"}
    if (got := {name for name, part in parts.items() if part is not None}) != needed:
        raise ValueError(
            f"{kind} needs {', '.join(sorted(needed)) or 'no parts'}, but got {', '.join(got) or 'none'}."
        )
    if isinstance(model, str | Path):
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


@contextmanager
def open_session(
    before: str,
    after: str | None = None,
    protocol: Protocol | None = None,
    folder: Path | None = None,
    *,
    cache: Cache | None = None,
    bf16: bool = False,
    given: Side | None = None,
    passes: tuple[int, int] = (32, 0),
    settings: dict | None = None,
) -> Iterator[Session]:
    """Context of a session with the models of these names; the first may be `given` instead. `protocol` is by default
    as in [`resolve_protocol`]. The output folder is locked, and has the cache, unless several commands use one."""
    if given and protocol not in (None, "model"):
        raise ValueError("A model that is given in Python has its own preprocessing: leave out `protocol`.")
    protocol = "model" if given else resolve_protocol(protocol, before, after)
    names = {"before": before} | ({"after": after} if after else {})
    own, of_models = Cache(folder / "cache") if folder else None, {Path(name).resolve() for name in names.values()}
    has_model = folder is not None and (folder / "config.json").is_file()
    if has_model and (folder.resolve() in of_models or not (folder / "cache").is_dir()):
        raise ValueError(f"`{folder}` has a model, whose files would be replaced: choose another --output_dir.")
    accelerator = make_accelerator(bf16)
    with own.lock() if own else nullcontext():
        sides = load_sides(names, protocol, accelerator, given)
        yield Session(sides, {}, accelerator, folder, cache or own, protocol, passes, settings or {})


def load_sides(
    names: Mapping[str, str], protocol: Protocol, accelerator: Accelerator, given: Side | None = None
) -> dict[str, Side]:
    """Load models of the same classes with their processors by side; `before` may be `given`."""
    sides = {} if given is None else {"before": given}
    for side, name in names.items():
        if side not in sides:
            model = load_model(name)
            sides[side] = Side.of(model, load_processor(name, protocol, model), name)
    first, *others = (classes_of_model(unwrap_pretrained(side.model).config) for side in sides.values())
    for classes in others:
        check_same_classes(first, classes)
    for side in sides.values():
        side.model.to(accelerator.device)
    return sides


class NonFiniteLogits(ValueError):
    """Logits are NaN or infinite."""


class TransformedRows(torch.utils.data.Dataset):
    """Transformed rows of a dataset, in batches. Errors name the row that caused them."""

    def __init__(self, dataset: datasets.Dataset, transform: Callable):
        self.dataset, self.rows = dataset, dataset.with_transform(transform)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        try:
            return self.rows.__getitems__(indices)
        except Exception as error:  # codecs raise any type
            if len(indices) > 1:
                return [row for index in indices for row in self.__getitems__([index])]
            (index,) = indices
            path = (undecoded(self.dataset)[index]["image"] or {"path": "no image"})["path"]
            text = f"Row {index} ({path or 'in the table'}) cannot be used: {error}."
            raise ValueError(f"{text} `robust-vit data describe … --split …` lists such rows.") from error


def batch_outputs(
    loader: DataLoader,
    compute: Callable[[dict[str, torch.Tensor]], tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]],
    dataset: datasets.Dataset,
    accelerator: Accelerator,
    description: str,
) -> Iterator[tuple[slice, list[torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Rows, logits (fp32) and values of each batch, in order, gathered from all processes. `compute` takes a collated
    batch, and returns logits `(B, C)`, which have to be finite, and values."""
    done = 0
    with tqdm(total=len(dataset), desc=description, unit="image", disable=not accelerator.is_main_process) as progress:
        for batch in accelerator.prepare(loader):
            with torch.no_grad(), accelerator.autocast():
                logits, values = compute(batch)
            logits, values = accelerator.gather_for_metrics(([of_pass.float() for of_pass in logits], values))
            for checked in logits:  # in every process, so that all stop together
                if bad := (~checked.isfinite()).any(dim=1).nonzero().flatten().tolist():
                    index, named = done + bad[0], "file_name" in dataset.column_names
                    image = f"`{dataset.with_format(None)['file_name'][index]}`" if named else f"image {index}"
                    text = f"{description}: the logits of {image} are NaN or infinite. Look at the image and at the"
                    raise NonFiniteLogits(f"{text} model's weights; in half precision, try float32.")
            rows = slice(done, done + len(logits[0]))
            yield rows, logits, values
            progress.update(rows.stop - rows.start)
            done = rows.stop


@dataclass(frozen=True)
class Measurement(ABC):
    """A measurement of a model on a set. Its result depends on its fields."""

    @abstractmethod
    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str) -> pd.DataFrame:
        """Table with a row for each image, in the order of the set, in every process."""

    def inputs(self) -> dict:
        """What a result depends on, other than side and set, as JSON values."""
        return asdict(self)


def measure(session: Session, measurement: Measurement) -> dict[str, dict[str, pd.DataFrame]]:
    """Tables by set and side: [`EvaluationSet.table`] with the columns of a measurement, from the session's cache if it
    has them."""
    return {name: {side: _table(session, measurement, name, side) for side in session.sides} for name in session.sets}


def _table(session: Session, measurement: Measurement, name: str, side: str) -> pd.DataFrame:
    model, rows = session.sides[side], session.sets[name]
    compute = partial(measurement.measure, model, rows, session, f"{name}, {side}")
    if session.cache is None or isinstance(model.model, OwnClassifier):  # a function has no weights to identify it
        measured = compute()
    else:
        inputs = measurement.inputs() | session.inputs(model, rows)
        measured = session.cache.table(type(measurement).__name__.lower(), compute, **inputs)
    return pd.concat([rows.table, measured], axis=1)


def save_predictions(path: Path, session: Session, measured: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    """Write the tables of [`measure`] to one file, see [`write_predictions`], with the digest of each set's images."""
    if session.accelerator.is_main_process:
        tables = {}
        for name, of_set in measured.items():
            tables[name] = {side: of.assign(digest=session.sets[name].digest) for side, of in of_set.items()}
        write_predictions(path, tables)


def write_results_json(
    session: Session, folder: Path, settings: dict, facts: dict, parts: Sequence[str | Table]
) -> str:
    """Write `facts` with settings and versions as JSON, and tables and paragraphs as Markdown. Returns the Markdown."""
    results = {"settings": public_settings(settings), **environment(), **facts, "class_names": session.label_names}
    results["weights"] = {name: side.weights for name, side in session.sides.items()}
    write_json(folder / RESULTS_FILE, results)
    shown = [part if isinstance(part, str) else f"{part.title}:\n\n{part.markdown()}" for part in parts]
    markdown = "\n\n".join(shown) + "\n"
    write_atomically(folder / TABLES_FILE, markdown)
    return markdown
