"""Agreement of the maps of attribution methods with the masks of a set."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ...data.transforms import segmentation_transform
from ...metrics.relevance_segmentation import RelevanceSegmentation
from ...models.image_processors import squash_resample
from ...relevance.attribution import ATTRIBUTION_METHODS
from ..session import Session, Side
from ..sets import EvaluationSet
from .base import Measured, Measurement, TransformedRows, batch_outputs


@dataclass(frozen=True)
class Attribution(Measurement):
    """Scores of [`RelevanceSegmentation`] by attribution method. As in Table 3 of
    https://huggingface.co/papers/2206.01161, images are squashed to the processor's size, and maps explain the
    predicted class."""

    methods: tuple[str, ...] = tuple(ATTRIBUTION_METHODS)

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        side.model.eval()
        transform = segmentation_transform(side.processor, squash_resample(side.processor))
        loader = self.loader(TransformedRows(rows.dataset.select_columns(["image", "mask"]), transform))
        scores = {method: RelevanceSegmentation() for method in self.methods}

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
            methods = [ATTRIBUTION_METHODS[method] for method in self.methods]
            outputs = [method(side.model, batch["pixel_values"], check_finite=False) for method in methods]
            maps = (output.relevance for output in outputs)
            return [output.logits for output in outputs], (batch["mask"], *maps)

        for _, _, (masks, *maps) in batch_outputs(loader, compute, rows.dataset, session.accelerator, title):
            for metric, of_method in zip(scores.values(), maps, strict=True):
                metric.update(of_method, masks)
        return Measured(scores={method: metric.compute() for method, metric in scores.items()})
