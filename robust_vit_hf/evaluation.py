"""Accuracy and relevance of a model on evaluation sets, and the before/after comparison of two models."""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, default_data_collator

from .relevance import relevance_map
from .transforms import eval_transform


@dataclass
class SetResult:
    """What a model does on one evaluation set.

    Args:
        predictions: `(N,)` predicted classes, in the order of the set.
        labels: `(N,)` classes; empty where the set has no labels.
        confusion: `(2, 2)` pixel counts [mask, thresholded map], or `None` where relevance was not asked for.
    """

    predictions: torch.Tensor
    labels: torch.Tensor
    confusion: torch.Tensor | None = None

    @property
    def top1(self) -> float | None:
        """Accuracy as a fraction."""
        return (self.predictions == self.labels).float().mean().item() if len(self.labels) else None

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU of thresholded relevance and mask over the two classes, as a fraction."""
        return None if self.confusion is None else mean_iou(self.confusion)


def segmentation_confusion(relevance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pixel counts of thresholded relevance maps against masks.

    Args:
        relevance: `(B, 1, H, W)`. A pixel is foreground where it exceeds the mean of its image's map.
        mask: `(B, 1, H, W)` in [0, 1], foreground from 0.5.

    Returns:
        `(2, 2)` int64: rows are background and foreground of the mask, columns those of the map.

    Source: segmentation test of https://huggingface.co/papers/2206.01161, section 4.2
    """
    predicted = relevance > relevance.mean(dim=(1, 2, 3), keepdim=True)
    pairs = 2 * (mask >= 0.5).long() + predicted.long()
    return torch.bincount(pairs.flatten(), minlength=4).view(2, 2)


def mean_iou(confusion: torch.Tensor) -> float:
    """Mean over background and foreground of intersection over union, with the counts `(2, 2)` of a whole set.

    A class that occurs neither in the masks nor in the maps is left out.
    """
    intersection = confusion.diagonal().double()
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - intersection
    return (intersection[union > 0] / union[union > 0]).mean().item()


def evaluate_sets(
    model: nn.Module,
    sets: dict[str, datasets.Dataset],
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    *,
    relevance: bool = True,
    batch_size: int = 32,
    description: str = "evaluating",
) -> dict[str, SetResult]:
    """Run a model over evaluation sets: top-1, and the mean IoU of its relevance maps with the masks.

    Maps explain the predicted class, as in the paper's segmentation test. Under several processes each takes a share
    of the images, and all get the whole result.

    Args:
        model: image classification model on the accelerator's device.
        sets: names to datasets with `image`, `mask` and `label` (which may be absent).
        processor: image processor of the model, with a centre crop.
        relevance: whether to compute relevance maps, at three times the cost.

    Returns:
        One [`SetResult`] a set.
    """
    model.eval()
    results = {}
    with tqdm(
        total=sum(map(len, sets.values())), desc=description, unit="image", disable=not accelerator.is_main_process
    ) as progress:
        for name, dataset in sets.items():
            progress.set_postfix_str(name)
            loader = DataLoader(
                dataset.with_transform(eval_transform(processor)), batch_size, collate_fn=default_data_collator
            )
            predictions, labels, confusion = [], [], torch.zeros(2, 2, dtype=torch.long, device=accelerator.device)
            for batch in accelerator.prepare(loader):
                with torch.no_grad(), accelerator.autocast():
                    if relevance:
                        output = relevance_map(model, batch["pixel_values"])
                        maps, masks = accelerator.gather_for_metrics((output.relevance, batch["mask"]))
                        confusion += segmentation_confusion(maps, masks)
                    else:
                        output = model(pixel_values=batch["pixel_values"])
                predictions.append(accelerator.gather_for_metrics(output.logits.argmax(dim=1)))
                if "labels" in batch:
                    labels.append(accelerator.gather_for_metrics(batch["labels"]))
                progress.update(len(predictions[-1]))
            results[name] = SetResult(
                torch.cat(predictions).cpu(),
                torch.cat(labels).cpu() if labels else torch.empty(0, dtype=torch.long),
                confusion.cpu() if relevance else None,
            )
    return results


@dataclass
class Comparison:
    """Results of the same sets before and after the finetuning, and of the control that saw the same images.

    Args:
        before, after: results by set.
        control: results of finetuning with cross-entropy alone, where it was run.
        shifted: names of the sets that the mean row averages; none for no mean row.
    """

    before: dict[str, SetResult]
    after: dict[str, SetResult]
    control: dict[str, SetResult] | None = None
    shifted: Sequence[str] = ()

    def rows(self) -> list[dict]:
        """One row a set: accuracies and mean IoU as fractions, `None` where not measured."""
        rows = [
            {
                "set": name,
                "num_images": len(before.predictions),
                "top1_before": before.top1,
                "top1_after": self.after[name].top1,
                "top1_control": self.control[name].top1 if self.control else None,
                "mean_iou_before": before.mean_iou,
                "mean_iou_after": self.after[name].mean_iou,
            }
            for name, before in self.before.items()
        ]
        if self.shifted:
            chosen = [row for row in rows if row["set"] in self.shifted]
            mean = {"set": "mean of the shifted sets", "num_images": sum(row["num_images"] for row in chosen)}
            for key in list(rows[0])[2:]:
                values = [row[key] for row in chosen]
                mean[key] = None if None in values else sum(values) / len(values)
            rows.append(mean)
        return rows

    def markdown(self) -> str:
        """The rows as a Markdown table, in per cent and points."""
        control = self.control is not None
        head = ["set", "images", "top-1 before", "after", "change"]
        head += ["cross-entropy control"] * control + ["relevance mIoU before", "after"]
        lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for row in self.rows():
            cells = [row["set"], str(row["num_images"]), *map(_percent, (row["top1_before"], row["top1_after"]))]
            cells.append(_change(row["top1_before"], row["top1_after"]))
            if control:
                cells.append(f"{_percent(row['top1_control'])} ({_change(row['top1_before'], row['top1_control'])})")
            cells += map(_percent, (row["mean_iou_before"], row["mean_iou_after"]))
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _change(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{100 * (after - before):+.1f}"
