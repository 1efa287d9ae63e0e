"""Composites: images with the background or an attribute of another image, and what a model predicts for them."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import datasets
import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch.utils.data import Dataset, Subset

from ..data import background_edits
from ..data.background_edits import (
    ATTRIBUTES,
    CONDITIONS,
    Pair,
    background,
    can_give,
    compose,
    draw_donors,
    edited,
    moved,
)
from ..data.dataset_digest import dataset_identity
from ..data.mask_checks import confirmed
from ..data.transforms import pixel_levels
from ..metrics.streaming import top_classes
from ..models.last_layer import LastLayer
from ..relevance.layer_cam import LAYER_CAM, class_map, map_name
from ..relevance.relevance_map import forward_logits
from ..utils.cache import code_digest
from .session import Measurement, Session, Side, TransformedRows, batch_outputs
from .sets import EvaluationSet


KINDS = ("same", "rand")  # donors of the class of the image, and of another class
DONORS, MANY_SEEDS = 4, 10_000  # of each kind for an image, and the distance of the seeds that draw them
DONOR_SEED = 0  # in [`composite_outputs`]
MOVED, MOVED_SEED = "moved", 1  # the edit [`~robust_vit_hf.data.background_edits.moved`], and the seed of its places
COVERED = "covered"  # like [`MOVED`], with the object covered by the background around it
LAYER_CAM_IMAGES = 4  # images of one pass for LayerCAM, which keeps the outputs of all layers
Batch = Mapping[str, torch.Tensor]
Tensors = Sequence[torch.Tensor]
Pictures = Iterator[torch.Tensor]
# Row numbers `(N,)` of the donors, -1 for none; or a function from a row number to a background `(3, H, W)`.
Donors = np.ndarray | Callable[[int], torch.Tensor]


class Composite(NamedTuple):
    """A way to compose the images of a set.

    Args:
        name: unique among the composites of a pass.
        edit: one of `CONDITIONS` or `ATTRIBUTES`, [`MOVED`] or [`COVERED`].
        donor: name of its donors in [`WithDonors`]; `None` for an edit without donors.
    """

    name: str
    edit: str
    donor: str | None = None

    def usable(self, batch: Batch) -> torch.Tensor:
        """Whether each image of a batch has this composite `(B,)`: not if its donor is a copy of it, or shows
        nothing."""
        if self.donor is None:
            return torch.ones_like(batch["mask"][:, 0, 0, 0], dtype=torch.bool)
        return batch[f"has_{self.donor}"].bool() & can_give(self.edit, batch[f"{self.donor}_mask"])

    def pictures(self, batch: Batch, levels: Pair) -> torch.Tensor:
        """Pictures `(B, 3, H, W)` of a batch. `levels` are the pixel values `(3,)` of black and white."""
        own = donor = batch["pixel_values"], batch["mask"]  # edits without a donor do not read it
        if self.donor is not None:
            donor = batch[f"{self.donor}_pixel_values"], batch[f"{self.donor}_mask"]
        if self.edit == COVERED:
            own = background(*own), own[1]
        if self.edit in (MOVED, COVERED):
            seed = [MOVED_SEED, *self.name.encode()]  # composites of an image differ in size and place too
            draws = [np.random.default_rng([*seed, row]).random(3) for row in batch["row"].tolist()]
            return moved(*own, donor, torch.tensor(np.array(draws), device=own[0].device))
        if self.edit in ATTRIBUTES:
            return edited(self.edit, own, donor, levels)
        return compose(*own, donor, donor, levels[0], [self.edit])[self.edit]


def composites_of(conditions: Sequence[str] = tuple(CONDITIONS), attributes: Sequence[str] = ()) -> list[Composite]:
    """Composites for these conditions, and for these attributes of donors of each of [`KINDS`]."""
    donors = {f"mixed_{kind}": kind for kind in KINDS}  # the other conditions take no background of another image
    edits = [Composite(f"{name}_{kind}", name, kind) for name in attributes for kind in KINDS]
    return [*(Composite(name, name, donors.get(name)) for name in conditions), *edits]


def of_donor(number: int) -> str:
    """End of the names of a donor and its composites: none for the first, then `_1`, `_2`, …"""
    return f"_{number}" if number else ""


class WithDonors(Dataset):
    """Rows with their number (`row`), and the columns of each donor after its name. `has_<donor>` is false for a
    copy."""

    def __init__(self, rows: TransformedRows, donors: Mapping[str, Donors]):
        self.rows, self.donors = rows, donors

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        numbers = {name: of[indices].tolist() for name, of in self.donors.items() if not callable(of)}
        needed = sorted({*indices, *(donor for of_name in numbers.values() for donor in of_name if donor >= 0)})
        read = dict(zip(needed, self.rows.__getitems__(needed), strict=True))
        items = []
        for place, index in enumerate(indices):
            item = read[index] | {"row": index}
            for name, of in self.donors.items():
                if callable(of):
                    donor = {"pixel_values": of(index), "mask": torch.zeros_like(item["mask"])}
                else:
                    donor = read[numbers[name][place] if numbers[name][place] >= 0 else index]
                item[f"has_{name}"] = callable(of) or not torch.equal(donor["pixel_values"], item["pixel_values"])
                item |= {f"{name}_{column}": value for column, value in donor.items()}
            items.append(item)
        return items


def composite_pass(
    side: Side,
    rows: EvaluationSet,
    session: Session,
    title: str,
    composites: Sequence[Composite],
    donors: Mapping[str, Donors],
    outputs_of: Callable[[Batch, Pictures, Tensors], tuple[list[torch.Tensor], torch.Tensor]],
    first: int = 0,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Compose images with masks, and yield values of a model for each batch, and its places, counted from `first`.

    Args:
        donors: by name, see [`WithDonors`].
        outputs_of: takes a batch, its composites, and which images have each; returns logits, and values `(B, …)`.
        first: number of the image to begin with.
    """
    side.model.eval()
    levels = [level.to(session.accelerator.device) for level in pixel_levels(side.processor)]
    images = TransformedRows(rows.dataset.select_columns(["image", "mask"]), rows.transform(side.processor))
    rest = range(first, len(rows.dataset))
    loader = session.loader(Subset(WithDonors(images, donors), rest))

    def compute(batch: Batch) -> tuple[list[torch.Tensor], tuple[torch.Tensor]]:
        pictures = (composite.pictures(batch, levels) for composite in composites)  # one at a time in memory
        logits, values = outputs_of(batch, pictures, [composite.usable(batch) for composite in composites])
        return logits, (values,)

    for place, _, (values,) in batch_outputs(loader, compute, rows.dataset.select(rest), session.accelerator, title):
        yield place, values.cpu().numpy()


def predicted_classes(logits: Tensors, usable: Tensors, subset: Sequence[int] | None) -> list[torch.Tensor]:
    """Predicted classes `(B,)` of each composite from its logits `(B, C)`; -1 for images without this composite."""
    best = [top_classes(of_composite.nan_to_num(), subset)[:, 0] for of_composite in logits]
    return [classes.masked_fill(~known, -1) for classes, known in zip(best, usable, strict=True)]


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs, D logits or features, for N images, and for K composites of each.

    Args:
        original: `(N, D)` fp32, of the original images.
        mixed: `(N, K, D)` fp32, of composites; NaN where image or donor lack object or background.
        labels: `(N,)` int64.
        classes: numbers of the classes among which the highest logit is the prediction; `None` for all.
        covered: `(N, 1, D)` fp32, of a composite with [`COVERED`]; `None` without.
        backgrounds: `(N, D)` fp32, of images with only their background; NaN where the mask is in doubt. Not mapped.
    """

    original: np.ndarray
    mixed: np.ndarray
    labels: np.ndarray
    classes: tuple[int, ...] | None = None
    covered: np.ndarray | None = None
    backgrounds: np.ndarray | None = None

    def mapped(self, logits_of: Callable[[np.ndarray], np.ndarray]) -> "Outputs":
        covered = None if self.covered is None else logits_of(self.covered)
        return replace(self, original=logits_of(self.original), mixed=logits_of(self.mixed), covered=covered)

    def right(self) -> dict[str, np.ndarray]:
        """Whether each image is right (`original`), and the share of its composites that are (`mixed_rand`)."""
        among = self.among_classes()
        original = (among.original.argmax(axis=-1) == among.labels).astype(float)
        return {"original": original, "mixed_rand": among._mean(among.mixed.argmax(axis=-1) == among.labels[:, None])}

    def probabilities(self, temperature: float) -> dict[str, np.ndarray]:
        """Probability of the right class at a temperature, for each original image, and the mean for its composites."""
        among = self.among_classes()
        original, mixed = (softmax(logits / temperature, axis=-1) for logits in (among.original, among.mixed))
        original = np.take_along_axis(original, among.labels[:, None], 1)[:, 0]
        mixed = np.take_along_axis(mixed, among.labels[:, None, None], 2)[..., 0]
        return {"original": original, "mixed_rand": among._mean(mixed)}

    def among_classes(self) -> "Outputs":
        """Only the logits of `classes`, with labels that count among these."""
        if self.classes is None:
            return self
        among = self.mapped(lambda logits: logits[..., self.classes])
        return replace(among, labels=np.searchsorted(self.classes, self.labels), classes=None)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        """Mean `(N,)` of values of composites `(N, K)`; NaN without any."""
        known = ~np.isnan(self.mixed[..., 0])
        with np.errstate(invalid="ignore"):
            return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def pool_picture(pool: datasets.Dataset, composite: int, row: int) -> torch.Tensor:
    rng = np.random.default_rng([DONOR_SEED, composite, row])
    (picture,) = pool[[int(rng.integers(len(pool)))]]["pixel_values"]
    return picture.flip(-1) if rng.random() < 0.5 else picture


def composite_outputs(
    side: Side,
    session: Session,
    count: int,
    layer: LastLayer | None = None,
    pool: datasets.Dataset | None = None,
    attributes: Sequence[str] = (),
    edit: str = "mixed_rand",
) -> Outputs:
    """Outputs of a side for the only set of a session, with `count` composites of each image for the background and for
    each attribute, and with [`MOVED`] one with [`COVERED`]. They are saved in the session's cache batch by batch.

    Args:
        layer: the last layer, whose features are returned instead of logits, also of the backgrounds alone.
        pool: pictures that are the backgrounds, instead of images of other classes.
        edit: how objects are put on the backgrounds, see [`Composite`].
    """
    ((name, rows),) = session.sets.items()
    trusted, labels = confirmed(rows.dataset), rows.labels.tolist()
    names = [f"composite_{number}" for number in range(count)]
    pictures: dict[str, Donors] = {}
    donors: dict[str, Donors] = {}
    if pool is not None:
        pictures = {f"picture_{number}": partial(pool_picture, pool, number) for number in range(count)}
    if attributes or pool is None:
        # If all images have one class, each counts as a class of its own, so that training images need no labels.
        classes = labels if len({*labels}) > 1 else [*range(len(labels))]
        donors = {name: draw_donors(classes, DONOR_SEED + number, trusted)[1] for number, name in enumerate(names)}
    donors |= pictures
    composites = [Composite("original", "original")]
    composites += [Composite(name, edit, name) for name in pictures or names]
    composites += [Composite(f"{name}_{attribute}", attribute, name) for attribute in attributes for name in names]
    composites += [Composite(COVERED, COVERED, names[0])] if edit == MOVED else []
    composites += [Composite("only_bg", "only_bg")] if layer else []
    width = len(session.classes) if layer is None else layer.weight.shape[1]

    def outputs_of(batch: Batch, pictures: Pictures, usable: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
        # One forward pass for each composite, of as many pictures as the batch has images.
        passes = [layer.outputs(of) if layer else (forward_logits(side.model, of),) * 2 for of in pictures]
        logits, values = zip(*passes, strict=True)
        values = torch.stack(values, dim=1).float()
        # Without an object, a composite would be only a background; without a background, the image itself.
        share = batch["mask"].mean(dim=(1, 2, 3))
        no_object = (share == 0) | (share == 1) | ~torch.from_numpy(trusted).to(share.device)[batch["row"]]
        for number, has_composite in enumerate(usable[1:], 1):
            values[~has_composite | no_object, number] = torch.nan
        return [*logits], values

    def batches(first: int) -> Iterator[np.ndarray]:
        passes = composite_pass(side, rows, session, name, composites, donors, outputs_of, first)
        return (values for _, values in passes)

    if session.cache is None:
        outputs = np.concatenate([*batches(0)])
    else:
        inputs = session.inputs(side, rows) | {
            "composites": [*composites],
            "seed": DONOR_SEED,
            "edits": edits_digest(),
        }
        inputs |= {"pool": None if pool is None else dataset_identity(pool.with_format(None))}
        kind, shape = "logits" if layer is None else "features", (len(rows.labels), len(composites), width)
        outputs = session.cache.arrays(kind, shape, batches, **inputs)
    if count:
        check_composed((~np.isnan(outputs[:, 1 : 1 + count, 0])).sum(), len(outputs), name)
    last = 1 + count * (1 + len(attributes))
    covered = outputs[:, last : last + 1] if edit == MOVED else None
    backgrounds = outputs[:, -1] if layer else None
    return Outputs(outputs[:, 0], outputs[:, 1:last], rows.labels, rows.class_subset, covered, backgrounds)


def edits_digest() -> str:
    """Digest of the code of the edits, and of the attributes, which may be a user's own."""
    edits = [attribute.edit for attribute in ATTRIBUTES.values()]
    code = [inspect.getsource(getattr(edit, "func", edit)) + str(getattr(edit, "keywords", "")) for edit in edits]
    return hashlib.sha256("".join([code_digest(background_edits), *code]).encode()).hexdigest()


def check_composed(count: int, num_images: int, name: str) -> None:
    if not count:
        text = f"No object of the {num_images} {name} images could be put on another background"
        raise ValueError(f"{text}: give other images or masks.")


@dataclass(frozen=True)
class Backgrounds(Measurement):
    """Predictions for the images of a set, which all have a label and a mask, in each of `CONDITIONS`, and with each of
    `ATTRIBUTES` of an image of their class and of another class. Rows have:

    - `confirmed`, whether the mask is not in doubt;
    - `donor_same` and `donor_rand`, the numbers of the donors, and `donor_class`, the class of `donor_rand`; or -1;
    - `original`, `mixed_same`, …, `border_same`, `border_rand`, …: predicted classes; -1 if there is no such image;
    - `donor_same_1`, `donor_rand_1`, `donor_class_1`, `mixed_same_1`, `mixed_rand_1`, …: the same of other donors;
    - `border_same_margin`, …: logit of the label minus the logit of `donor_class`; NaN if it is -1;
    - `object_share`, the object's share of the pixels, and `relevance_on_object` or `layercam_on_object`, its share of
      the map of the predicted class in the original image (NaN without `relevance`, and for models without maps).

    Source: https://huggingface.co/papers/2006.09994
    """

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    attributes: tuple[str, ...] = ()
    relevance: bool = True
    seed: int = 0  # of the donors
    donors: int = DONORS  # of each kind; attributes take those of the first

    def inputs(self) -> dict:
        return super().inputs() | {"edits": edits_digest()}

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str) -> pd.DataFrame:
        composites = composites_of(self.conditions, self.attributes)
        edits = len(composites) - len(self.conditions)
        trusted = confirmed(rows.dataset)
        drawn, donor_classes = {}, {}
        for number in range(self.donors):
            pair = draw_donors(rows.labels.tolist(), self.seed + MANY_SEEDS * number, trusted)
            drawn |= {kind + of_donor(number): of_kind for kind, of_kind in zip(KINDS, pair, strict=True)}
            donor_classes[f"donor_class{of_donor(number)}"] = np.where(pair[1] >= 0, rows.labels[pair[1]], -1)
        donor_class = donor_classes["donor_class"]
        others = [composite for composite in composites if composite.name.startswith("mixed_")]
        ends = [of_donor(number) for number in range(1, self.donors)]
        composites += [Composite(of.name + end, of.edit, f"{of.donor}{end}") for end in ends for of in others]

        def outputs_of(batch: Batch, pictures: Pictures, usable: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
            """Values `(B, …)`: predictions, margins, and the object's shares of the pixels and of the map."""
            mask, logits = batch["mask"], []
            inside = torch.full_like(mask[:, 0, 0, 0], torch.nan)
            for composite, picture in zip(composites, pictures, strict=True):
                if composite.name == "original" and self.relevance and (explained := map_name(side.model, picture)):
                    parts = picture.split(LAYER_CAM_IMAGES if explained == LAYER_CAM else len(picture))
                    outputs = [class_map(side.model, part, check_finite=False) for part in parts]
                    logits.append(torch.cat([output.logits.float() for output in outputs]))
                    shown = torch.cat([output.relevance for output in outputs])
                    whole = shown.sum(dim=(1, 2, 3))
                    inside = torch.where(whole > 0, (shown * mask).sum(dim=(1, 2, 3)) / whole, torch.nan)
                else:
                    logits.append(forward_logits(side.model, picture).float())
            row, device = batch["row"].cpu().numpy(), mask.device
            right, other = (torch.from_numpy(labels[row])[:, None].to(device) for labels in (rows.labels, donor_class))
            towards = (
                of.gather(1, right) - of.gather(1, other.clamp_min(0)) for of in logits[len(self.conditions) :][:edits]
            )
            values = predicted_classes(logits, usable, rows.class_subset)
            values += [margin.where(other >= 0, torch.nan)[:, 0] for margin in towards]
            values += [mask.mean(dim=(1, 2, 3)), inside]
            return logits, torch.stack([value.double() for value in values], dim=1)

        donors = {name: drawn[name] for name in {composite.donor for composite in composites} - {None}}
        batches = composite_pass(side, rows, session, title, composites, donors, outputs_of)
        values = np.concatenate([values for _, values in batches])
        columns = {f"donor_{kind}": of_kind for kind, of_kind in drawn.items()}
        columns |= {**donor_classes, "confirmed": trusted}
        columns |= {composite.name: values[:, place].astype(np.int64) for place, composite in enumerate(composites)}
        margins = values[:, len(composites) : len(composites) + edits].T
        named = zip(composites[len(self.conditions) :][:edits], margins, strict=True)
        columns |= {f"{composite.name}_margin": margin for composite, margin in named}
        of_cam = self.relevance and map_name(side.model) == LAYER_CAM
        on_object = "layercam_on_object" if of_cam else "relevance_on_object"
        return pd.DataFrame(columns | {"object_share": values[:, -2], on_object: values[:, -1]})
