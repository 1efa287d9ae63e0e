"""Predictions for images that are given attributes of other images, such as a frame or a colour cast."""

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...data.attributes import ATTRIBUTES
from ...data.composition import draw_donors
from ...relevance.relevance_map import forward_logits
from ..composites import KINDS, Batch, Composite, Tensors, composite_pass, predicted_classes
from ..session import Session, Side
from ..sets import EvaluationSet
from .base import Measured, Measurement


@dataclass(frozen=True)
class Attributes(Measurement):
    """Predictions for the images of a set with each of [`ATTRIBUTES`] of an image of their class, and of another class. All images
    have a label and a mask. Rows:

    - `accepted`, the correct classes, and `label`, the first of them;
    - `donor_same` and `donor_rand`, numbers of the images whose attributes are taken, and `donor_class`, the class of the second;
      -1 where there is none;
    - `original`, and `border_same`, `border_rand`, …: predicted classes; -1 where there is no such image;
    - `border_same_margin`, `border_rand_margin`, …: logit of the class minus that of the class of `donor_rand`;
    - `object_share`, the object's share of the pixels that the model sees.
    """

    names: tuple[str, ...] = tuple(ATTRIBUTES)
    seed: int = 0  # of the donors

    def inputs(self) -> dict:
        """With the code of the edits, which may be those of a user."""
        code = [inspect.getsource(ATTRIBUTES[name].edit) for name in self.names]
        return super().inputs() | {"edits": hashlib.sha256("".join(code).encode()).hexdigest()}

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        donors = dict(zip(KINDS, draw_donors(rows.labels.tolist(), self.seed), strict=True))
        donor_class = np.where(donors["rand"] >= 0, rows.labels[donors["rand"]], -1)
        edits = [Composite(f"{name}_{kind}", name, kind) for kind in KINDS for name in self.names]
        composites = [Composite("original", "original"), *edits]

        def outputs_of(batch: Batch, pictures: Tensors, usable: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
            """Values `(B, 2 · n + 2)`: predictions of the images and of n edits, margins of these, and the share of the object."""
            logits = [forward_logits(side.model, picture).float() for picture in pictures]
            row, device = batch["row"].cpu().numpy(), logits[0].device
            right, other = (
                torch.from_numpy(classes[row])[:, None].to(device) for classes in (rows.labels, donor_class)
            )
            margins = [(edited.gather(1, right) - edited.gather(1, other))[:, 0] for edited in logits[1:]]
            values = [
                *predicted_classes(logits, usable, rows.class_subset),
                *margins,
                batch["mask"].mean(dim=(1, 2, 3)),
            ]
            return logits, torch.stack([value.double() for value in values], dim=1)

        passes = self.batch_size, self.num_workers
        batches = composite_pass(side, rows, session, title, composites, donors, outputs_of, passes)
        values = np.concatenate([values for _, values in batches])
        columns = {"accepted": rows.accepted, "label": rows.labels, "donor_class": donor_class}
        columns |= {f"donor_{kind}": drawn for kind, drawn in donors.items()}
        columns |= {composite.name: values[:, place].astype(np.int64) for place, composite in enumerate(composites)}
        margins = values[:, len(composites) : -1].T
        columns |= {f"{edit.name}_margin": margin for edit, margin in zip(edits, margins, strict=True)}
        return Measured(columns | {"object_share": values[:, -1]})
