"""Predictions for images with noise on the object or on the background."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from ..data.transforms import pixel_levels
from ..metrics.streaming import top_classes
from ..relevance.relevance_map import forward_logits
from .measurement import Measured, Measurement
from .other_backgrounds import Batch, Pictures, Tensors, composite_pass, condition_composites
from .session import Session, Side
from .sets import EvaluationSet


REGIONS = ("foreground", "background")


@dataclass(frozen=True)
class Sensitivity(Measurement):
    """Predictions for images with Gaussian noise on the object, and on the background, the same noise for every model. Rows have `accepted`, the
    predicted classes `foreground` and `background` of each draw, and `object_share` (https://huggingface.co/papers/2201.10766)."""

    sigma: float = 0.25  # standard deviation of the noise, on pixels in [0, 1], which are then clamped
    draws: int = 3  # as in the authors' code; each takes two forward passes
    seed: int = 0

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        device = session.accelerator.device
        black, white = (level.to(device)[:, None, None] for level in pixel_levels(side.processor))

        def outputs_of(batch: Batch, pictures: Pictures, usable: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
            """Values `(B, 2 · draws + 1)`: predictions with noise, and the object's share of the pixels."""
            (original,), logits = pictures, []
            shape = (self.draws, *original.shape[1:])
            generators = [np.random.default_rng((self.seed, row)) for row in batch["row"].tolist()]
            drawn = np.stack([rng.standard_normal(shape, np.float32) for rng in generators])
            for noise, region in product(torch.from_numpy(drawn).to(device).unbind(1), REGIONS):
                where = batch["mask"] if region == "foreground" else 1 - batch["mask"]
                noisy = original + where * noise * self.sigma * (white - black)
                logits.append(forward_logits(side.model, torch.minimum(torch.maximum(noisy, black), white)).float())
            best = [top_classes(of.nan_to_num(), rows.class_subset)[:, 0].double() for of in logits]
            return logits, torch.stack([*best, batch["mask"].mean(dim=(1, 2, 3)).double()], dim=1)

        passes = composite_pass(side, rows, session, title, condition_composites(["original"]), {}, outputs_of)
        values = np.concatenate([values for _, values in passes])
        columns = {region: values[:, place:-1:2].astype(np.int64) for place, region in enumerate(REGIONS)}
        return Measured({"accepted": rows.accepted} | columns | {"object_share": values[:, -1]})
