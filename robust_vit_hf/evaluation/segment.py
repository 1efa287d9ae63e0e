"""The segmentation test: how well the maps of several relevance rules agree with the masks of a set."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, default_data_collator

from ..rules import RULES
from ..transforms import segmentation_transform
from .run import check_logits, load_metric


def segment_set(
    model: nn.Module,
    dataset: datasets.Dataset,
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    metrics: str | Path,
    rules: Sequence[str],
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    description: str = "segmenting",
) -> dict[str, dict]:
    """Scores of relevance rules on a set with masks, in one pass over its images.

    As in the paper's Table 3, images are squashed to the size of the processor's crop, and maps explain the predicted class.

    Args:
        model: image classification model on the accelerator's device.
        dataset: rows with `image` and `mask`.
        metrics: as for [`evaluate_sets`].
        rules: names from `RULES`.

    Returns:
        By rule what the metric script `relevance_segmentation` returns; other processes than the main one get nothing.

    Raises:
        ValueError: logits are NaN or infinite (the image is named), or a mask has another size than its image.

    Source: section 4.2 of https://huggingface.co/papers/2206.01161
    """
    model.eval()
    loader = DataLoader(
        dataset.select_columns(["image", "mask"]).with_transform(segmentation_transform(processor)),
        batch_size,
        num_workers=num_workers,
        collate_fn=default_data_collator,
    )
    file_names = dataset.with_format(None)["file_name"] if "file_name" in dataset.column_names else None
    main, done = accelerator.is_main_process, 0
    scores = {rule: load_metric(metrics, "relevance_segmentation") for rule in rules} if main else {}
    with tqdm(total=len(dataset), desc=description, unit="image", disable=not main) as progress:
        for batch in accelerator.prepare(loader):
            for rule in rules:
                with torch.no_grad(), accelerator.autocast():
                    output = RULES[rule].compute(model, batch["pixel_values"])
                maps, masks, logits = accelerator.gather_for_metrics(
                    (output.relevance, batch["mask"], output.logits.float())
                )
                check_logits(logits, file_names, done, description)
                if main:
                    scores[rule].add_batch(predictions=maps, references=masks)
            done += len(masks)
            progress.update(len(masks))
    return {rule: metric.compute() for rule, metric in scores.items()}
