"""Agreement of the maps of attribution methods with the masks of a set."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ...data.transforms import segmentation_transform
from ...models.preprocessing import squash_resample
from ...relevance.attribution import ATTRIBUTION_METHODS
from ...results.metrics.relevance_segmentation import RelevanceSegmentation
from ..image_passes import check_logits, image_loader
from ..session import Session, Side
from ..sets import EvaluationSet
from .base import Measured, Measurement


@dataclass(frozen=True)
class Attribution(Measurement):
    """Scores of [`RelevanceSegmentation`] by attribution method, in one pass over a set with masks. As in the paper's
    Table 3, images are squashed to the size of those that the processor gives, and maps explain the predicted class.

    Args:
        methods: names from `ATTRIBUTION_METHODS`.

    Source: Table 3 of https://huggingface.co/papers/2206.01161
    """

    methods: tuple[str, ...] = tuple(ATTRIBUTION_METHODS)

    def measure(
        self, side: Side, rows: EvaluationSet, session: Session, description: str, folder: Path | None
    ) -> Measured:
        accelerator, dataset = session.accelerator, rows.dataset
        side.model.eval()
        pairs = dataset.select_columns(["image", "mask"])
        loader = image_loader(
            pairs,
            segmentation_transform(side.processor, squash_resample(side.processor)),
            self.batch_size,
            self.num_workers,
        )
        main, done = accelerator.is_main_process, 0
        scores = {method: RelevanceSegmentation() for method in self.methods} if main else {}
        with tqdm(total=len(dataset), desc=description, unit="image", disable=not main) as progress:
            for batch in accelerator.prepare(loader):
                for method in self.methods:
                    with torch.no_grad(), accelerator.autocast():
                        output = ATTRIBUTION_METHODS[method](side.model, batch["pixel_values"], check_finite=False)
                    maps, masks, logits = accelerator.gather_for_metrics(
                        (output.relevance, batch["mask"], output.logits.float())
                    )
                    check_logits(logits, dataset, done, description)
                    if main:
                        scores[method].update(maps, masks)
                done += len(masks)
                progress.update(len(masks))
        return Measured(scores={method: metric.compute() for method, metric in scores.items()})
