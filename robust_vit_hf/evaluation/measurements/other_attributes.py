"""Predictions for images that are given attributes of other images, such as a frame or a colour cast."""

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...data.attributes import ATTRIBUTES, edited, has_both
from ...data.composition import draw_donors
from ...data.geometry import pixel_levels
from ...metrics.robust_accuracy import top_classes
from ...relevance.relevance_map import forward_logits
from ..session import Session, Side
from ..sets import EvaluationSet
from .base import Measured, Measurement, TransformedRows, batch_outputs
from .other_backgrounds import WithDonors


KINDS = ("same", "rand")  # of donors, of the class of the image and of another


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
        side.model.eval()
        labels = np.array([accepted[0] for accepted in rows.accepted])
        donors = dict(zip(KINDS, draw_donors(labels.tolist(), self.seed), strict=True))
        levels = [level.to(session.accelerator.device) for level in pixel_levels(side.processor)]
        donor_class = np.where(donors["rand"] >= 0, labels[donors["rand"]], -1)
        pairs = TransformedRows(rows.dataset.select_columns(["image", "mask"]), rows.transform(side.processor))
        edits = [f"{name}_{kind}" for kind in KINDS for name in self.names]

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor]]:
            """Values `(B, 2 · n + 2)`: predictions of the images and of n edits, margins of these, and the share of the object."""
            own, usable, row = (batch["pixel_values"], batch["mask"]), [], batch["row"].cpu().numpy()
            images = [own[0]]
            for kind in KINDS:
                donor = batch[f"{kind}_pixel_values"], batch[f"{kind}_mask"]
                usable += len(self.names) * [batch[f"has_{kind}"].bool() & has_both(donor[1])]
                images += [edited(name, own, donor, levels) for name in self.names]
            logits = [forward_logits(side.model, one).float() for one in images]
            best = [top_classes(of_image.nan_to_num(), rows.class_subset)[:, 0] for of_image in logits]
            best[1:] = [one.masked_fill(~known, -1) for one, known in zip(best[1:], usable, strict=True)]
            right, other = (torch.from_numpy(of[row])[:, None].to(logits[0].device) for of in (labels, donor_class))
            margins = [(one.gather(1, right) - one.gather(1, other))[:, 0] for one in logits[1:]]
            values = [*best, *margins, batch["mask"].mean(dim=(1, 2, 3))]
            return logits, (torch.stack([value.double() for value in values], dim=1),)

        passes = batch_outputs(
            self.loader(WithDonors(pairs, donors)), compute, rows.dataset, session.accelerator, title
        )
        values = torch.cat([values.cpu() for _, _, (values,) in passes]).numpy()
        columns = {"accepted": rows.accepted, "label": labels, "donor_class": donor_class}
        columns |= {f"donor_{kind}": of_kind for kind, of_kind in donors.items()}
        columns |= {name: values[:, place].astype(np.int64) for place, name in enumerate(["original", *edits])}
        margins = values[:, 1 + len(edits) : -1].T
        columns |= {f"{name}_margin": margin for name, margin in zip(edits, margins, strict=True)}
        return Measured(columns | {"object_share": values[:, -1]})
