"""Agreement of relevance maps with masks, as in the paper's Table 3.

Source: https://huggingface.co/papers/2206.01161
"""

from collections.abc import Mapping

import numpy as np

from ..data.published import published_cell, published_models
from .markdown_latex import Table, change, percent
from .published_tables import METHODS, VALIDATION, mean_std, validation_top1, with_validation
from .run_results import Results, Run


SEGMENTATION = {
    "pixel_accuracy": "pixel accuracy",
    "mean_iou": "mIoU",
    "mean_ap": "mAP",
    "pointing_game": "pointing game",
    "energy": "energy",
    "auc": "AUC",
}


def attribution_table(
    scores: Mapping[str, Mapping[str, Mapping]], set_name: str, num_images: int, paper_model: str | None
) -> Table:
    """Table 3 with further attribution methods and scores, in per cent.

    Args:
        scores: scores of [`RelevanceSegmentation`] by side (`before`, `after`) and attribution method.
        paper_model: the paper's name of the model, such as `ViT-B`, to show its published values; `None` for none.
    """
    entry, cells = published_models().get(paper_model), []
    for method in scores["before"]:
        for side, version in {"before": "original", "after": "finetuned"}.items():
            if side in scores:
                cells.append([f"{method}, {version}", *(percent(scores[side][method][name]) for name in SEGMENTATION)])
            published = [published_cell(entry, "paper", version, set_name, (name,)) for name in SEGMENTATION]
            if method == "gae" and any(published):
                cells.append([f"gae, {version}, published", *(text or "–" for text in published)])
        if "after" in scores:
            before, after = scores["before"][method], scores["after"][method]
            cells.append([f"{method}, change", *(change(before[name], after[name]) for name in SEGMENTATION)])
    title = f"Relevance maps and masks of {set_name}, {num_images} images, in per cent"
    return Table(title, ["method, model", *SEGMENTATION.values()], cells)


def segmentation_table(results: Results) -> dict[str, Table]:
    """Table 3: agreement of relevance with masks, averaged over the sets with masks."""
    scores = list(SEGMENTATION)[:3]
    rows: list[list[str]] = []
    for model in results.models:
        for method in results.methods:
            runs = [run for run in results.of(method, model) if sets_with_masks(run)]
            if not runs:
                continue
            means = {
                side: [
                    [
                        float(np.mean([result.sides[side].scores[score] for result in sets_with_masks(run)]))
                        for run in runs
                    ]
                    for score in scores
                ]
                for side in ("before", "after")
            }
            if not any(row[0] == model for row in rows):
                originals = [mean_std(values if len({*values}) > 1 else values[:1]) for values in means["before"]]
                rows.append([model, "Orig", validation_top1(runs, 0), *originals])
            rows.append([model, METHODS.get(method, method), validation_top1(runs, 1), *map(mean_std, means["after"])])
    title = "Table 3: relevance and masks, mean over the sets with masks, in per cent"
    head = ["model", "method", VALIDATION, "Pixel acc.", "mIoU", "mAP"]
    return {"table_3": with_validation(title, head, rows)} if rows else {}


def sets_with_masks(run: Run) -> list:
    """Sets of a run on which the relevance maps of both sides were compared with masks."""
    return [
        result
        for result in run.sets.values()
        if all(
            result.sides.get(side) and result.sides[side].scores.get("mean_iou") is not None
            for side in ("before", "after")
        )
    ]
