"""Predictions for images with noise on the object or on the background."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import datasets
import numpy as np
import torch

from ..data.transforms import pixel_levels
from ..metrics.robust_accuracy import top_classes
from ..relevance.relevance_map import forward_logits
from .measurement import Measured, Measurement, TransformedRows, batch_outputs
from .session import Session, Side
from .sets import EvaluationSet


@dataclass(frozen=True)
class Sensitivity(Measurement):
    """Predictions for images with Gaussian noise on the object, and on the background, the same noise for every model. Rows have `accepted`, the
    predicted classes `foreground` and `background` of each draw, and `object_share` (https://huggingface.co/papers/2201.10766)."""

    sigma: float = 0.25  # standard deviation of the noise, on pixels in [0, 1], which are then clamped
    draws: int = 3  # as in the authors' code; each takes two forward passes
    seed: int = 0

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        side.model.eval()
        dataset, transform = rows.dataset.select_columns(["image", "mask"]), rows.transform(side.processor)
        loader = session.loader(WithNoise(dataset, transform, self.draws, self.seed))
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

        passes = batch_outputs(loader, compute, rows.dataset, session.accelerator, title)
        values = torch.cat([values.cpu() for _, _, (values,) in passes]).numpy()
        columns = {region: values[:, place:-1:2].astype(np.int64) for place, region in enumerate(REGIONS)}
        return Measured({"accepted": rows.accepted} | columns | {"object_share": values[:, -1]})


class WithNoise(TransformedRows):
    def __init__(self, dataset: datasets.Dataset, transform: Callable, draws: int, seed: int):
        super().__init__(dataset, transform)
        self.draws, self.seed = draws, seed

    def __getitems__(self, indices: list[int]) -> list[dict]:
        items = super().__getitems__(indices)
        for index, item in zip(indices, items, strict=True):
            shape = (self.draws, *item["pixel_values"].shape)
            drawn = np.random.default_rng((self.seed, index)).standard_normal(shape, np.float32)
            item["noise"] = torch.from_numpy(drawn)
        return items


REGIONS = ("foreground", "background")
