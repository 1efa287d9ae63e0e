"""Features of images and of their objects on other backgrounds, the inputs of the last layer: computed once, in one array on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from transformers import default_data_collator

from ..data.composition import background, draw_donors, is_background, paste
from ..data.geometry import input_size
from ..evaluation.image_passes import TransformedRows, batch_outputs
from ..evaluation.measurements.other_backgrounds import WithDonors
from ..evaluation.session import Session, Side
from ..evaluation.sets import EvaluationSet
from ..models.last_layer import LastLayer
from ..utils.stage import Stage


FEATURES_FILE = "features.npy"


@dataclass(frozen=True)
class Features:
    """Features of N images, each in K composites.

    Args:
        original: `(N, D)` fp32, of the images as they are.
        composites: `(N, K, D)` fp32, of their objects on the backgrounds of other images; NaN where the donor has no background.
        labels: `(N,)` int64; -1 for images without a label.
    """

    original: np.ndarray
    composites: np.ndarray
    labels: np.ndarray


def composite_features(
    side: Side, rows: EvaluationSet, count: int, seed: int, folder: Path, session: Session, passes: tuple[int, int]
) -> Features:
    """Compute features with `count` composites an image, whose donors are of other classes, or of any other image where there are no
    labels. What is in the folder, a stage, is not computed again."""
    labels = np.array([accepted[0] if accepted else -1 for accepted in rows.accepted])
    stage = Stage(folder, session.inputs("before", rows) | {"composites": count, "seed": seed})
    if stage.result() is None:
        stage.begin()
        _compute(side, rows, labels, count, seed, folder / FEATURES_FILE, session, passes)
        stage.finish({}, [FEATURES_FILE])
    values = np.load(folder / FEATURES_FILE)
    return Features(values[:, 0], values[:, 1:], labels)


def _compute(
    side: Side,
    rows: EvaluationSet,
    labels: np.ndarray,
    count: int,
    seed: int,
    file: Path,
    session: Session,
    passes: tuple[int, int],
) -> None:
    """Write the features, from the first image on that a kill has left without."""
    size = input_size(side.processor)
    layer = LastLayer(side.model.eval(), torch.zeros(1, 3, *size, device=session.accelerator.device))
    names = [f"composite_{number}" for number in range(count)]
    donors = {name: draw_donors(labels.tolist(), seed + number)[1] for number, name in enumerate(names)}
    pairs = TransformedRows(rows.dataset.select_columns(["image", "mask"]), rows.transform(side.processor))
    shape = (len(labels), 1 + count, layer.weight.shape[1])
    if not file.is_file():
        np.lib.format.open_memmap(file, "w+", np.float32, shape)[:] = np.nan
    values = np.lib.format.open_memmap(file, "r+")
    done = int((~np.isnan(values[:, 0, 0])).sum())

    def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        images, known = [batch["pixel_values"]], []
        for name in names:
            donor, mask = batch[f"{name}_pixel_values"], batch[f"{name}_mask"]
            images.append(paste(batch["pixel_values"], batch["mask"], background(donor, mask)))
            known.append(batch[f"has_{name}"].bool() & is_background(mask).flatten(1).any(dim=1))
        logits, features = layer.outputs(torch.cat(images))
        features = features.unflatten(0, (len(images), -1)).transpose(0, 1)
        for number, usable in enumerate(known, 1):
            features[:, number][~usable] = torch.nan
        return [logits[: len(features)]], (features,)

    rest = Subset(WithDonors(pairs, donors), range(done, len(labels)))
    loader = DataLoader(rest, passes[0], num_workers=passes[1], collate_fn=default_data_collator)
    remaining = rows.dataset.select(range(done, len(labels)))
    for of_batch, _, (features,) in batch_outputs(loader, compute, remaining, session.accelerator, "features"):
        place = slice(done + of_batch.start, done + of_batch.stop)
        values[place, 1:] = features[:, 1:].cpu().numpy()
        values[place, 0] = features[:, 0].cpu().numpy()  # last, as it says that the row is complete
    values.flush()
