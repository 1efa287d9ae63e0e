"""Relative foreground sensitivity: whether noise on the object costs more accuracy than noise on the background."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from .bootstrap import Difference, resampled_interval, resampled_means
from .text_table import Table


def relative_foreground_sensitivity(noisy_foreground: np.ndarray, noisy_background: np.ndarray) -> np.ndarray:
    """RFS, from −1 to 1: (b − f) / (2 · min(ā, 1 − ā)), with top-1 f and b with noise on the object and on the background, and
    ā their mean; 0 where ā is 0 or 1. Above 0, the object counts more.

    Args:
        noisy_foreground, noisy_background: top-1 as fractions, of any shape.

    Source: https://huggingface.co/papers/2201.10766, section 4
    """
    mean = (np.asarray(noisy_foreground) + np.asarray(noisy_background)) / 2
    room = 2 * np.minimum(mean, 1 - mean)
    known = room > 1e-12
    return np.where(known, (noisy_background - noisy_foreground) / np.where(known, room, 1), 0.0)


def sensitivity_table(measured: Mapping[str, Mapping[str, Mapping[str, Sequence]]]) -> Table:
    """Table of the columns of [`~robust_vit_hf.evaluation.measurements.sensitivity.Sensitivity`] by set and side. Top-1 is the mean
    over classes. Intervals are those of a bootstrap over images, paired between models."""
    compared = any("after" in sides for sides in measured.values())
    rows = []
    for name, sides in measured.items():
        drawn = {side: _drawn(columns, name) for side, columns in sides.items()}
        values = {side: relative_foreground_sensitivity(*found) for side, found in drawn.items()}
        accuracies = [f"{100 * found[place][0]:.1f}" for place in (0, 1) for found in drawn.values()]
        cells = [str(resampled_interval(of_side)) for of_side in values.values()]
        if compared:
            cells.append(str(resampled_interval(values["after"] - values["before"], Difference)))
        rows.append([name, str(len(next(iter(sides.values()))["accepted"])), *accuracies, *cells])
    sides_of = ["before", "after"] if compared else [""]
    heads = [
        f"{text} {side}".strip()
        for text in ("top-1, noise on the object,", "on the background,", "RFS")
        for side in sides_of
    ]
    heads = [head.rstrip(",") for head in heads]
    title = "Relative foreground sensitivity, in per cent [95 % interval]: above 0, noise on the object costs more"
    return Table(title, ["set", "images", *heads, *(["change"] if compared else [])], rows)


def _drawn(columns: Mapping[str, Sequence], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 `(1 + R,)` with noise on the object and on the background, means over classes: first measured, then resampled."""
    accepted = columns["accepted"]
    classes = np.array([labels[0] if len(labels) else -1 for labels in accepted])
    found = []
    for region in ("foreground", "background"):
        right = np.array(
            [int(best) in labels for best, labels in zip(columns[region], accepted, strict=True)], dtype=float
        )
        of_class = np.stack(
            [np.where(classes == label, right, np.nan) for label in np.unique(classes[classes >= 0])], axis=1
        )
        resampled = resampled_means(of_class, seed=zlib.crc32(name.encode()))
        found.append(np.concatenate([[np.nanmean(of_class, axis=0).mean()], np.nanmean(resampled, axis=1)]))
    return found[0], found[1]
