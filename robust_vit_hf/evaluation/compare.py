"""Comparison of results before and after: the change on each set, its confidence interval, and changes by class and factor."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.robust_accuracy import TOP
from .evaluate_sets import SetResult


NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
SIDES = ("before", "after", "control")
MEAN_ROW = "mean of the shifted sets"
# Scores of each model in a row beside top-1 and top-5: fractions, but for NLL (nats) and Brier score (0–2).
SCORES = ("ece", "nll", "brier", "pixel_accuracy", "mean_iou", "mean_ap", "mean_per_class_top1", "mean_per_group_top1")


def sides_of(rows: list[dict]) -> list[str]:
    """Those of `before`, `after` and `control` whose top-1 is in rows of [`Comparison.rows`] or [`Comparison.class_groups`]."""
    return [side for side in SIDES if any(row.get(f"top1_{side}") is not None for row in rows)]


def bootstrap_changes(before: np.ndarray, after: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes of accuracy in paired bootstrap resamples of the images.

    An image is corrected, broken, or neither, and the change depends on how often a resample draws each of the three: one
    multinomial draw instead of a draw of all images.

    Args:
        before, after: `(N,)` bool, whether each image is classified correctly.

    Returns:
        `(10000,)` float64, after − before, as fractions.

    Source: https://doi.org/10.1201/9780429246593 (Efron and Tibshirani, chapter 13)
    """
    counts = np.array([(~before & after).sum(), (before & ~after).sum(), (before == after).sum()])
    draws = rng.multinomial(len(before), counts / len(before), NUM_RESAMPLES)
    return (draws[:, 0] - draws[:, 1]) / len(before)


@dataclass
class Comparison:
    """Results by set, before and after the finetuning.

    Args:
        after: `None` for one model alone.
        control: finetuning on the same images with cross-entropy alone, if it was run.
        shifted: names of the sets that the mean row averages; without any there is no mean row.
        training_classes: classes of the images of the finetuning, if they are known.
    """

    before: dict[str, SetResult]
    after: dict[str, SetResult] | None = None
    control: dict[str, SetResult] | None = None
    shifted: Sequence[str] = ()
    training_classes: frozenset[int] | None = None

    @property
    def sides(self) -> dict[str, dict[str, SetResult]]:
        sides = {"before": self.before, "after": self.after, "control": self.control}
        return {side: results for side, results in sides.items() if results is not None}

    def rows(self) -> list[dict]:
        """A row for each set, and the mean row: `set`, `num_images` (with a label), `top1_before`, `top1_after`,
        `top1_control`, and likewise the other scores, as fractions; `change_low` and `change_high`, the 95 % confidence
        interval of the change in top-1; `corrected` and `broken`, numbers of images. `None` if not measured."""
        rows, changes = [], {}
        for name, before in self.before.items():
            row: dict = {
                "set": name,
                "num_images": int(before.usable.sum()) if before.accepted else len(before.predictions),
            }
            for score in ("top1", f"top{TOP}", *SCORES):
                for side in SIDES:
                    results = self.sides.get(side)
                    row[f"{score}_{side}"] = None if results is None else results[name].scores.get(score)
            row |= dict.fromkeys(("change_low", "change_high", "corrected", "broken"))
            if self.after is not None and before.accepted is not None:
                right, right_after = (r.correct()[r.usable] for r in (before, self.after[name]))
                # Seeded by the name, so that an interval does not depend on the other sets.
                rng = np.random.default_rng(zlib.crc32(name.encode()))
                changes[name] = bootstrap_changes(right, right_after, rng)
                row |= _interval(changes[name])
                row |= {"corrected": int((~right & right_after).sum()), "broken": int((right & ~right_after).sum())}
            rows.append(row)
        if self.shifted:
            chosen = [row for row in rows if row["set"] in self.shifted]
            mean: dict = {"set": MEAN_ROW}
            for key in list(rows[0])[1:]:
                values = [row[key] for row in chosen]
                counted = key in ("num_images", "corrected", "broken")
                mean[key] = None if None in values else sum(values) if counted else sum(values) / len(values)
            if mean["change_low"] is not None:
                # Sets are independent of one another, and so are their resamples.
                mean |= _interval(np.mean([changes[name] for name in self.shifted], axis=0))
            rows.append(mean)
        return rows

    def class_groups(self) -> list[dict]:
        """Tables 10 and 11: top-1 and top-5 on the training classes and on the others. Rows with `set`, `classes` (`training`
        or `other`), `num_images`, and `top1_before` and so on, `None` if a set has no such image. No rows if the training
        classes are not known."""
        rows = []
        for name, before in self.before.items():
            if self.training_classes is None or before.accepted is None:
                continue
            in_training = np.isin(before.classes, list(self.training_classes))
            for classes, chosen in (("training", in_training), ("other", ~in_training)):
                chosen = chosen & before.usable
                row = {"set": name, "classes": classes, "num_images": int(chosen.sum())}
                for k in (1, TOP):
                    for side, results in self.sides.items():
                        known = chosen.any() and results[name].predictions.shape[1] >= k
                        row[f"top{k}_{side}"] = float(results[name].correct(k)[chosen].mean()) if known else None
                rows.append(row)
        return rows

    def class_changes(self, name: str) -> dict[int, float]:
        """Change in top-1 of each class of a set, as a fraction, from the most harmed class to the most helped (Figures 8
        to 14). The class of an image is the first of its accepted labels."""
        before, after = (results[name].scores["per_class_top1"] for results in (self.before, self.after))
        return dict(sorted(((label, after[label] - before[label]) for label in before), key=lambda item: item[1]))

    def curves(self, name: str) -> dict[str, dict[str, list[float]]]:
        """Top-1 over each factor that a set varies: `value`, `num_images`, `before`, `after` and so on, lists of equal length
        in the order of the values."""
        before, curves = self.before[name], {}
        for factor, values in before.factors.items():
            if before.accepted is None or len(np.unique(values)) < 2:
                continue
            steps, index = np.unique(values[before.usable], return_inverse=True)
            counts = np.bincount(index)
            curves[factor] = {"value": steps.tolist(), "num_images": counts.tolist()}
            for side, results in self.sides.items():
                right = results[name].correct()[before.usable]
                curves[factor][side] = (np.bincount(index, weights=right) / counts).tolist()
        return curves


def _interval(changes: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(changes, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"change_low": float(low), "change_high": float(high)}
