"""Predictions for objects on other backgrounds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...data.composition import CONDITIONS, draw_donors
from ...relevance.architectures import why_no_map
from ...relevance.relevance_map import forward_logits, relevance_map
from ..composites import KINDS, Batch, Tensors, composite_pass, condition_composites, predicted_classes
from ..session import Session, Side
from ..sets import EvaluationSet
from .base import Measured, Measurement


@dataclass(frozen=True)
class Backgrounds(Measurement):
    """Predictions for the images of a set in each of `CONDITIONS`. All images have a label and a mask. Rows:

    - `file_name`, if known; `accepted`, the correct classes, and `label`, the first of them;
    - `donor_same` and `donor_rand`, numbers of the images whose backgrounds are taken, and `donor_class`, the class of
      the second; -1 where there is none;
    - `original`, `mixed_same`, …: predicted classes; -1 where no donor has a background;
    - `object_share`, the object's share of the pixels that the model sees, and `relevance_on_object`, its share of the
      relevance of the predicted class in the original image (NaN without `relevance`, and for models without maps).

    Source: https://huggingface.co/papers/2006.09994
    """

    conditions: tuple[str, ...] = tuple(CONDITIONS)  # some of them, in their order
    relevance: bool = True
    seed: int = 0  # of the donors

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        composites = condition_composites(self.conditions)
        needed = {composite.donor for composite in composites} - {None}
        same, other = draw_donors(rows.labels.tolist(), self.seed) if needed else 2 * (np.full(len(rows.labels), -1),)
        donors = {kind: drawn for kind, drawn in zip(KINDS, (same, other), strict=True) if kind in needed}
        explains = self.relevance and why_no_map(side.model) is None

        def outputs_of(batch: Batch, pictures: Tensors, usable: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
            """Values `(B, n + 2)`: predictions in n conditions, share of the object in the pixels, and in the relevance."""
            mask, logits = batch["mask"], []
            inside = torch.full_like(mask[:, 0, 0, 0], torch.nan)
            for composite, picture in zip(composites, pictures, strict=True):
                if composite.name == "original" and explains:
                    output = relevance_map(side.model, picture, check_finite=False)
                    logits.append(output.logits.float())
                    whole = output.relevance.sum(dim=(1, 2, 3))
                    inside = torch.where(whole > 0, (output.relevance * mask).sum(dim=(1, 2, 3)) / whole, torch.nan)
                else:
                    logits.append(forward_logits(side.model, picture).float())
            values = [*predicted_classes(logits, usable, rows.class_subset), mask.mean(dim=(1, 2, 3)), inside]
            return logits, torch.stack([value.double() for value in values], dim=1)

        passes = self.batch_size, self.num_workers
        batches = composite_pass(side, rows, session, title, composites, donors, outputs_of, passes)
        values = np.concatenate([values for _, values in batches])
        columns = {"accepted": rows.accepted, "label": rows.labels, "donor_same": same, "donor_rand": other}
        if "file_name" in rows.dataset.column_names:
            columns = {"file_name": rows.dataset.with_format(None)["file_name"][:]} | columns
        columns["donor_class"] = np.where(other >= 0, rows.labels[other], -1)
        columns |= {name: values[:, place].astype(np.int64) for place, name in enumerate(self.conditions)}
        return Measured(columns | {"object_share": values[:, -2], "relevance_on_object": values[:, -1]})
