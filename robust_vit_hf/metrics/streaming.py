"""The metrics of `eval/` over sets that are added batch by batch, without files in between."""

from functools import partial
from types import ModuleType

import torch

from . import calibration, relevance_segmentation, robust_accuracy


class Streaming:
    """The metric of a `script`, with the `settings` of its `reduce`, over a set that is added batch by batch, of which
    it keeps a few numbers for each image. Batches that raise an error are not added."""

    def __init__(self, script: ModuleType, **settings):
        self._script, self._settings = script, settings
        self._columns: dict[str, list] = {"predictions": [], "references": []}

    def update(self, predictions, references, **groups) -> None:
        """Add a batch. Arguments are those of the script's metric."""
        added = len(self._columns["predictions"])
        batch = self._script.reduce(predictions, references, **groups, **self._settings, first_image=added)
        for name, values in batch.items():
            self._columns.setdefault(name, []).extend(values)

    def compute(self) -> dict:
        """What the script's metric returns for all added images."""
        return self._script.scores(**self._columns)


RobustAccuracy = partial(Streaming, robust_accuracy)
Calibration = partial(Streaming, calibration)
RelevanceSegmentation = partial(Streaming, relevance_segmentation)


def top_classes(logits: torch.Tensor, class_subset=None) -> torch.Tensor:
    """[`robust_accuracy.top_classes`] of a tensor in any dtype, on its device."""
    best = robust_accuracy.top_classes(logits.detach().cpu().double().numpy(), class_subset)
    return torch.from_numpy(best).to(logits.device)
