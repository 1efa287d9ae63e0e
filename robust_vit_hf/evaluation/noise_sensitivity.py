"""Predictions with noise on the object alone, and on the background alone."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.geometry import pixel_levels
from ..metrics.robust_accuracy import top_classes
from ..relevance.relevance_map import forward_logits
from .measurement import Measured, Measurement, TransformedRows, batch_outputs
from .session import Session, Side
from .sets import EvaluationSet


REGIONS = ("foreground", "background")


@dataclass(frozen=True)
class Sensitivity(Measurement):
    """Predictions for images with Gaussian noise on one region. All images have a mask. Rows: `accepted`, the
    predicted classes `foreground` and `background` under each draw, of the region with the noise, and `object_share`,
    the object's share of the pixels. An image gets the same noise from every model, and in both regions.

    Source: https://huggingface.co/papers/2201.10766; `rfs.py` of https://github.com/mmoayeri/HardImageNet
    """

    sigma: float = 0.25  # of the noise on pixels in [0, 1], which are clamped again
    draws: int = 3  # as in the code of the source; each takes two forward passes
    seed: int = 0

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        side.model.eval()
        pairs = TransformedRows(rows.dataset.select_columns(["image", "mask"]), rows.transform(side.processor))
        device = session.accelerator.device
        black, white = (level.to(device)[:, None, None] for level in pixel_levels(side.processor))

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor]]:
            logits = []
            for noise, region in product(batch["noise"].unbind(1), REGIONS):
                where = batch["mask"] if region == "foreground" else 1 - batch["mask"]
                noisy = batch["pixel_values"] + where * noise * self.sigma * (white - black)
                logits.append(forward_logits(side.model, torch.minimum(torch.maximum(noisy, black), white)).float())
            best = [top_classes(of.nan_to_num(), rows.class_subset)[:, 0].double() for of in logits]
            return logits, (torch.stack([*best, batch["mask"].mean(dim=(1, 2, 3)).double()], dim=1),)

        loader = self.loader(WithNoise(pairs, self.draws, self.seed))
        passes = batch_outputs(loader, compute, rows.dataset, session.accelerator, title)
        values = torch.cat([values.cpu() for _, _, (values,) in passes]).numpy()
        columns = {region: values[:, place:-1:2].astype(np.int64) for place, region in enumerate(REGIONS)}
        return Measured({"accepted": rows.accepted} | columns | {"object_share": values[:, -1]})


class WithNoise(Dataset):
    """Rows of images with standard normal `noise` `(draws, 3, H, W)` for their pixels, drawn by seed and number of the row."""

    def __init__(self, rows: TransformedRows, draws: int, seed: int):
        self.rows, self.draws, self.seed = rows, draws, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        items = self.rows.__getitems__(indices)
        for index, item in zip(indices, items, strict=True):
            shape = (self.draws, *item["pixel_values"].shape)
            drawn = np.random.default_rng((self.seed, index)).standard_normal(shape, np.float32)
            item["noise"] = torch.from_numpy(drawn)
        return items
