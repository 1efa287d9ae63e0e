"""Outputs of a model for images and for their objects on other backgrounds: logits, or the features that its last layer reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from transformers import default_data_collator

from ..data.attributes import edited, has_both
from ..data.composition import background, draw_donors, is_background, paste
from ..data.geometry import pixel_levels
from ..evaluation.measurements.base import TransformedRows, batch_outputs
from ..evaluation.measurements.other_backgrounds import WithDonors
from ..evaluation.session import Session, Side
from ..models.last_layer import LastLayer
from ..relevance.relevance_map import forward_logits
from ..training.background_swap import BackgroundPool
from ..utils.files import atomic_file
from ..utils.stage import Stage


OUTPUTS_FILE = "outputs.npy"
SELECTION_COMPOSITES = 4  # of each image
SEED = 0  # of the donors
NONE_COMPOSED = (
    "No object of the {} {} images could be put on another background: every object fills the image, or lies outside of what the model "
    "sees. Give more images, or other masks."
)


def training_composites(num_images: int) -> int:
    """Number of composites of each training image: 1,200 by the number of images, but at least 2 and at most 12 (docs/methods.md)."""
    return min(12, max(2, 1200 // num_images))


@dataclass(frozen=True, eq=False)
class Composites:
    """Outputs, D logits or features, for N images, and for K composites of each.

    Args:
        original: `(N, D)` fp32, of the images as they are.
        mixed: `(N, K, D)` fp32, of their objects on the backgrounds of images of other classes, and of the images with attributes of
            these; NaN where the donor has no background, or the image no object or no background.
        labels: `(N,)` int64.
    """

    original: np.ndarray
    mixed: np.ndarray
    labels: np.ndarray

    def mapped(self, logits_of: Callable[[np.ndarray], np.ndarray]) -> "Composites":
        """Logits, from features."""
        return replace(self, original=logits_of(self.original), mixed=logits_of(self.mixed))

    def right(self) -> dict[str, np.ndarray]:
        """By logits, whether each image is right as it is, `original` `(N,)`, and the share of its composites that are, `mixed_rand`
        `(N,)`, NaN where there are none."""
        known = ~np.isnan(self.mixed[..., 0])
        hits = (self.mixed.argmax(axis=-1) == self.labels[:, None]) & known
        with np.errstate(invalid="ignore"):
            mixed_rand = hits.sum(axis=1) / known.sum(axis=1)
        original = (self.original.argmax(axis=-1) == self.labels).astype(float)
        return {"original": original, "mixed_rand": mixed_rand}


def composite_outputs(
    side: Side,
    session: Session,
    count: int,
    passes: tuple[int, int],
    layer: LastLayer | None = None,
    folder: Path | None = None,
    pool: BackgroundPool | None = None,
    attributes: Sequence[str] = (),
) -> Composites:
    """Outputs of a side for the one set of a session, with `count` composites an image, and as many for each attribute; a `ValueError`
    if no image has one.

    Args:
        passes: batch size, and number of processes that read images.
        layer: the last layer of the side, for its features instead of its logits.
        folder: of a stage that keeps them, and goes on after a kill; by default nothing is kept.
        pool: pictures as backgrounds, instead of those of images of other classes.
    """
    ((name, rows),) = session.sets.items()
    labels = np.array([accepted[0] for accepted in rows.accepted])
    size = session.classes if layer is None else layer.weight[0]
    values = np.full((len(labels), 1 + count * (1 + len(attributes)), len(size)), np.nan, np.float32)
    if folder is not None:
        inputs = {"composites": count, "seed": SEED} | ({"attributes": [*attributes]} if attributes else {})
        stage = Stage(folder, session.inputs("before", rows) | inputs)
        stage.begin()
        if not (folder / OUTPUTS_FILE).is_file():
            with atomic_file(folder / OUTPUTS_FILE) as partial, partial.open("wb") as file:
                np.save(file, values)  # if it were cut off, `r+` would fill it with zeros
        values = np.load(folder / OUTPUTS_FILE, "r+")
    done = int((~np.isnan(values[:, 0, 0])).sum())
    if done < len(labels):
        _compute(side, session, labels, values[done:], count, passes, layer, pool, done, attributes)
    if folder is not None:
        stage.finish({}, [OUTPUTS_FILE])
    if count and np.isnan(values[:, 1:, 0]).all():
        raise ValueError(NONE_COMPOSED.format(len(labels), name))
    return Composites(values[:, 0], values[:, 1:], labels)


def _compute(
    side: Side,
    session: Session,
    labels: np.ndarray,
    values: np.ndarray,
    count: int,
    passes: tuple[int, int],
    layer: LastLayer | None,
    pool: BackgroundPool | None,
    done: int,
    attributes: Sequence[str],
) -> None:
    """Fill `values` of the images from `done` on."""
    ((name, rows),) = session.sets.items()
    side.model.eval()
    names = [] if pool and not attributes else [f"composite_{number}" for number in range(count)]
    levels = [level.to(session.accelerator.device) for level in pixel_levels(side.processor)]
    # Of images of one class, each counts as a class of its own: training images need no labels.
    classes = labels.tolist() if len({*labels}) > 1 else [*range(len(labels))]
    donors = {one: draw_donors(classes, SEED + number)[1] for number, one in enumerate(names)}
    images = TransformedRows(rows.dataset.select_columns(["image", "mask"]), rows.transform(side.processor))

    def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        image, pictures, unusable = (batch["pixel_values"], batch["mask"]), [batch["pixel_values"]], []
        given = {one: (batch[f"{one}_pixel_values"], batch[f"{one}_mask"]) for one in names}
        has = {one: batch[f"has_{one}"].bool() for one in names}
        if not pool:
            pictures += [paste(*image, background(*donor)) for donor in given.values()]
            unusable += [~(has[one] & is_background(mask).flatten(1).any(dim=1)) for one, (_, mask) in given.items()]
        for composite in range(count if pool else 0):
            seeds = [[SEED, composite, row] for row in batch["row"].tolist()]
            drawn = [next(pool.draw(np.ones(1, bool), np.random.default_rng(one)))[1] for one in seeds]
            pictures.append(paste(*image, torch.stack(drawn).to(batch["mask"])))
            unusable.append(torch.zeros(len(drawn), dtype=torch.bool, device=batch["mask"].device))
        for attribute in attributes:
            pictures += [edited(attribute, image, donor, levels) for donor in given.values()]
            unusable += [~(has[one] & has_both(mask)) for one, (_, mask) in given.items()]
        of_all = torch.cat(pictures)
        logits, outputs = layer.outputs(of_all) if layer else (forward_logits(side.model, of_all),) * 2
        outputs = outputs.float().unflatten(0, (len(pictures), -1)).transpose(0, 1).clone()
        # Without an object, a composite would be a background alone; without a background, the image itself.
        share = batch["mask"].mean(dim=(1, 2, 3))
        whole = (share == 0) | (share == 1)
        for number, of_composite in enumerate(unusable, 1):
            outputs[of_composite | whole, number] = torch.nan
        return list(logits.chunk(len(pictures))), (outputs,)

    rest = Subset(WithDonors(images, donors), range(done, len(labels)))
    loader = DataLoader(rest, passes[0], num_workers=passes[1], collate_fn=default_data_collator)
    remaining = rows.dataset.select(range(done, len(labels)))
    for place, _, (outputs,) in batch_outputs(loader, compute, remaining, session.accelerator, name):
        values[place, 1:] = outputs[:, 1:].cpu().numpy()
        values[place, 0] = outputs[:, 0].cpu().numpy()  # last, since it says that the image is complete
