"""Sufficient input subsets of the images of a set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from robust_vit_hf.evaluation.session import Session, Side, TransformedRows
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.relevance.relevance_map import forward_logits
from robust_vit_hf.utils.files import atomic_file

from .sufficient_subsets import margin, sufficient_input_subsets


@dataclass(frozen=True)
class Subsets:
    """Sufficient input subsets of the classes `targets`, or of the label of each image, in one process. Rows, one per
    pair of image and class: `found`, `size` (share of the pixels), `confidence`, `revealed` (class probability with
    the 8 neighbours of each pixel also visible), `all_masked` and, with masks, `foreground` (share of the subset, NaN
    if it is empty) and `image_foreground`. Each batch, with its subsets, is a file in a folder of the cache."""

    batch_size: int = 8
    targets: tuple[int, ...] = ()
    threshold: float = 0.9
    pixels_per_step: int = 100

    def pairs(self, rows: EvaluationSet) -> list[tuple[int, int]]:
        """Pairs of image index and class."""
        targets = ((index, self.targets or rows.accepted[index][:1]) for index in range(len(rows.dataset)))
        return [(index, target) for index, of_image in targets for target in of_image]

    def find(self, side: Side, rows: EvaluationSet, session: Session, title: str) -> Path:
        """Folder with the subsets of a model on a set."""
        columns = ["image", "mask"] if "mask" in rows.dataset.column_names else ["image"]
        pairs = self.pairs(rows)
        repeated = rows.dataset.select([index for index, _ in pairs]).select_columns(columns)
        images = TransformedRows(repeated, rows.transform(side.processor))
        loader = replace(session, passes=(self.batch_size, 0)).loader(images)

        def make(folder: Path) -> None:
            with tqdm(total=len(pairs), desc=title, unit="pair") as progress:
                for number, batch in enumerate(loader):
                    if not _part(folder, number).is_file():
                        targets = [target for _, target in pairs[number * self.batch_size :][: self.batch_size]]
                        with session.accelerator.autocast():
                            found = self._measure_batch(side.model, batch, targets, session.accelerator.device)
                        with atomic_file(_part(folder, number)) as partial:
                            save_file(found, partial)
                    progress.update(len(batch["pixel_values"]))

        return session.cache.folder(title.replace(", ", "-"), make, **asdict(self), **session.inputs(side, rows))

    def columns(self, folder: Path) -> dict[str, np.ndarray]:
        return concatenate([_columns_of(load_file(path)) for path in sorted(folder.glob("*.safetensors"))])

    def _measure_batch(
        self, model: nn.Module, batch: dict[str, torch.Tensor], targets: list[int], device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Subsets of a batch. Each value has B rows: `subset`, `found`, `confidence` and `margins` as in
        [`SufficientSubsets`]; `revealed`, the probability with the 8 neighbours of each pixel also visible; with masks
        `(B, 1, H, W)`, the shares of the subset (NaN if it is empty) and of the image that are `foreground` and
        `image_foreground`."""
        pixel_values, target = batch["pixel_values"].to(device), torch.tensor(targets, device=device)
        output = sufficient_input_subsets(
            model, pixel_values, target, threshold=self.threshold, pixels_per_step=self.pixels_per_step
        )
        subset = output.subset.to(pixel_values.dtype)
        neighbourhood = F.max_pool2d(subset, kernel_size=3, stride=1, padding=1)
        with torch.no_grad():
            revealed = margin(forward_logits(model, pixel_values * neighbourhood), target).sigmoid()
        measured = {name: output[name] for name in ("subset", "found", "confidence", "margins")}
        measured["revealed"] = revealed
        if "mask" in batch:
            masks = batch["mask"].to(device)
            measured["foreground"] = (subset * masks).sum(dim=(1, 2, 3)) / subset.sum(dim=(1, 2, 3))
            measured["image_foreground"] = masks.mean(dim=(1, 2, 3))
        return {name: value.cpu().contiguous() for name, value in measured.items()}

    def subset(self, folder: Path, row: int) -> torch.Tensor:
        """Read the subset `(1, H, W)`, bool, of one row from the folder of a result."""
        return load_file(_part(folder, row // self.batch_size))["subset"][row % self.batch_size].bool()


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.safetensors"


def _columns_of(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    columns = {"found": batch["found"], "size": batch["subset"].float().mean(dim=(1, 2, 3))}
    columns |= {"confidence": batch["confidence"], "revealed": batch["revealed"]}
    columns |= {"all_masked": batch["margins"][:, -1].sigmoid()}
    columns |= {name: batch[name] for name in ("foreground", "image_foreground") if name in batch}
    return {name: (of if of.dtype == torch.bool else of.float()).numpy() for name, of in columns.items()}


def concatenate(parts: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Concatenate rows of several sets or batches, with the columns that all of them have."""
    shared = set.intersection(*(set(part) for part in parts))
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0] if name in shared}


def summarize(rows: dict[str, Any]) -> dict[str, float | int | None]:
    """Number of pairs, share with a subset, and means of columns of [`Subsets`] over those; `None` if there are
    none."""
    found = np.asarray(rows["found"], dtype=bool)
    summary: dict[str, float | int | None] = {"pairs": len(found), "found": float(found.mean())}
    for name, values in rows.items():
        if name != "found":
            known = np.asarray(values, dtype=float)[found]
            known = known[~np.isnan(known)]
            summary[name] = float(known.mean()) if len(known) else None
    return summary
