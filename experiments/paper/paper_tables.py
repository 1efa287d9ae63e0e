"""The paper's tables of an experiment: 1 and 2, ablations (4 and 12), seeds (8 and 9), 3, 10 and 11, and differences
between methods.

Source: https://huggingface.co/papers/2206.01161
"""

import numpy as np

from robust_vit_hf.metrics.robust_accuracy import TOP
from robust_vit_hf.results.run_results import SetResult
from robust_vit_hf.results.tables import SEGMENTATION, Table

from ..sweeps.results import Results
from ..sweeps.runs import OURS, Run
from ..sweeps.seed_intervals import change, versus
from .published_tables import (
    METHODS,
    VALIDATION,
    accuracy_table,
    accuracy_tables,
    class_group_tables,
    mean_std,
    validation_change,
    validation_top1,
    with_validation,
)


# Begin the names of variants of the method (docs/paper.md), which are compared with it in tables of their own.
ABLATIONS = (
    *("without-confidence", "without-background", "without-foreground", "ground-truth"),
    *("second-order", "bce", "label-free", "start-layer"),
)


def paper_tables(results: Results) -> dict[str, Table]:
    """All tables for which there are runs, by name."""
    methods = [method for method in results.methods if not method.startswith(ABLATIONS)]
    ablations = [method for method in results.methods if method == OURS or method not in methods]
    tables = accuracy_tables(results, methods=methods) | _segmentation_table(results)
    if len(ablations) > 1:
        for number, k in ((4, 1), (12, TOP)):
            title = f"Table {number}: ablations, top-{k} in per cent"
            tables[f"table_{number}"] = accuracy_table(results, title, ablations, results.sets, (k,), ours="full-loss")
    if len({run.seed for run in results.runs}) > 1 and OURS in results.methods:
        for number, k in ((8, 1), (9, TOP)):
            title = f"Table {number}: seeds, top-{k} in per cent, mean ± standard deviation"
            tables[f"table_{number}"] = accuracy_table(results, title, [OURS], results.sets, (k,))
    return tables | class_group_tables(results) | {"differences": _difference_table(results)}


def _difference_table(results: Results) -> Table:
    """Difference of each method to the original and to the full loss, over the shifted sets."""
    rows = []
    ours = results.of(OURS)
    for method in results.methods:
        runs = results.of(method)
        shifted, unshifted = (results.common(runs, names) for names in (results.shifted, results.unshifted))
        both = results.common([*runs, *ours], shifted)
        against = versus(ours, runs, both) if method != OURS and ours else None
        changes = [str(change(runs, names)) if names else "–" for names in (shifted, unshifted)]
        cells = [str(len(runs)), changes[0], str(against or "–"), changes[1], validation_change(runs)]
        rows.append([METHODS.get(method, method), *cells])
    head = ["method", "runs", "shifted sets", "shifted sets, less Ours", "unshifted sets", VALIDATION]
    means = "means over sets, models and seeds, with 95 % intervals over seeds and images"
    title = f"Changes of top-1 in points, {means}"
    return Table(title, head, rows)


def _segmentation_table(results: Results) -> dict[str, Table]:
    """Table 3: agreement of relevance with masks, averaged over the sets with masks."""
    scores = list(SEGMENTATION)[:3]
    rows: list[list[str]] = []
    for model in results.models:
        for method in results.methods:
            runs = [run for run in results.of(method, model) if sets_with_masks(run)]
            if not runs:
                continue
            before, after = (
                [[mean_score(run, side, score) for run in runs] for score in scores] for side in ("before", "after")
            )
            if not any(row[0] == model for row in rows):
                originals = [mean_std(values if len({*values}) > 1 else values[:1]) for values in before]
                rows.append([model, "Orig", validation_top1(runs, 0), *originals])
            rows.append([model, METHODS.get(method, method), validation_top1(runs, 1), *map(mean_std, after)])
    title = "Table 3: relevance and masks, mean over the sets with masks, in per cent"
    head = ["model", "method", VALIDATION, "Pixel acc.", "mIoU", "mAP"]
    return {"table_3": with_validation(title, head, rows)} if rows else {}


def mean_score(run: Run, side: str, score: str) -> float:
    """Agreement of relevance with masks, averaged over the sets with masks."""
    return float(np.mean([result.sides[side].scores[score] for result in sets_with_masks(run)]))


def sets_with_masks(run: Run) -> list[SetResult]:
    """Sets of a run on which the relevance maps of both sides were compared with masks."""
    sides = ("before", "after")
    return [
        result
        for result in run.sets.values()
        if all(side in result.sides and result.sides[side].scores.get("mean_iou") is not None for side in sides)
    ]
