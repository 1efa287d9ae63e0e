"""Predictions for objects on other backgrounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ...data.composition import CONDITIONS, compose, draw_donors, is_background
from ...data.geometry import pixel_levels
from ...metrics.robust_accuracy import top_classes
from ...relevance.architectures import why_no_map
from ...relevance.relevance_map import forward_logits, relevance_map
from ..session import Session, Side
from ..sets import EvaluationSet
from .base import Measured, Measurement, TransformedRows, batch_outputs


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
        side.model.eval()
        labels = np.array([accepted[0] for accepted in rows.accepted])
        mixed = {"mixed_same", "mixed_rand"} & {*self.conditions}
        same, other = draw_donors(labels.tolist(), self.seed) if mixed else 2 * (np.full(len(labels), -1),)
        black = pixel_levels(side.processor)[0].to(session.accelerator.device)
        pairs = rows.dataset.select_columns(["image", "mask"])
        needed = {name: of for name, of in (("mixed_same", same), ("mixed_rand", other)) if name in mixed}
        loader = self.loader(WithDonors(TransformedRows(pairs, rows.transform(side.processor)), needed))
        explains = self.relevance and why_no_map(side.model) is None

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor]]:
            # Values `(B, n + 2)`: predictions in n conditions, share of the object in the pixels, and in the relevance.
            mask, given = batch["mask"], {}
            for name in ("mixed_same", "mixed_rand"):
                given[name] = (batch[f"{name}_pixel_values"], batch[f"{name}_mask"]) if name in mixed else None
            images = compose(batch["pixel_values"], mask, *given.values(), black, self.conditions)
            inside, predicted, checked = torch.full_like(mask[:, 0, 0, 0], torch.nan), [], []
            for name, composed in images.items():
                if name == "original" and explains:
                    output = relevance_map(side.model, composed, check_finite=False)
                    logits = output.logits.float()
                    whole = output.relevance.sum(dim=(1, 2, 3))
                    inside = torch.where(whole > 0, (output.relevance * mask).sum(dim=(1, 2, 3)) / whole, torch.nan)
                else:
                    logits = forward_logits(side.model, composed).float()
                checked.append(logits)
                best = top_classes(logits.nan_to_num(), rows.class_subset)[:, 0]
                if donors := given.get(name):
                    usable = batch[f"has_{name}"].bool() & is_background(donors[1]).flatten(1).any(dim=1)
                    best = best.masked_fill(~usable, -1)
                predicted.append(best)
            values = [*predicted, mask.mean(dim=(1, 2, 3)), inside]
            return checked, (torch.stack([value.double() for value in values], dim=1),)

        passes = batch_outputs(loader, compute, rows.dataset, session.accelerator, title)
        values = torch.cat([values.cpu() for _, _, (values,) in passes]).numpy()
        columns = {"accepted": rows.accepted, "label": labels, "donor_same": same, "donor_rand": other}
        if "file_name" in rows.dataset.column_names:
            columns = {"file_name": rows.dataset.with_format(None)["file_name"][:]} | columns
        columns["donor_class"] = np.where(other >= 0, labels[other], -1)
        columns |= {name: values[:, place].astype(np.int64) for place, name in enumerate(self.conditions)}
        columns |= {"object_share": values[:, -2], "relevance_on_object": values[:, -1]}
        return Measured(columns)


class WithDonors(Dataset):
    """Rows with their numbers (`row`), and those of their donors, given by condition, the prefix of their columns, and number `(N,)`; a
    copy of an image is no donor for it."""

    def __init__(self, rows: TransformedRows, donors: Mapping[str, np.ndarray]):
        self.rows, self.donors = rows, donors

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        donors = {kind: [int(of_all[index]) for index in indices] for kind, of_all in self.donors.items()}
        needed = sorted({*indices, *(donor for of_kind in donors.values() for donor in of_kind if donor >= 0)})
        read = dict(zip(needed, self.rows.__getitems__(needed), strict=True))
        items = []
        for place, index in enumerate(indices):
            item = read[index] | {"row": index}
            for kind, of_kind in donors.items():
                donor = read[of_kind[place] if of_kind[place] >= 0 else index]
                item[f"has_{kind}"] = not torch.equal(donor["pixel_values"], item["pixel_values"])
                item |= {f"{kind}_{name}": value for name, value in donor.items()}
            items.append(item)
        return items
