"""Relative foreground sensitivity: whether noise on the object costs more accuracy than noise on the background."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from .bootstrap import Difference, Resamples
from .markdown_latex import Table


def relative_foreground_sensitivity(noisy_foreground: np.ndarray, noisy_background: np.ndarray) -> np.ndarray:
    """RFS, from −1 to 1: (b − f) / (2 · min(ā, 1 − ā)), with top-1 f and b, fractions of any shape, with noise on the
    object and on the background, and ā their mean; 0 where ā is 0 or 1. Above 0, the object counts more.

    Source: https://huggingface.co/papers/2201.10766, section 4
    """
    mean = (np.asarray(noisy_foreground) + np.asarray(noisy_background)) / 2
    room = 2 * np.minimum(mean, 1 - mean)
    known = room > 1e-12
    return np.where(known, (noisy_background - noisy_foreground) / np.where(known, room, 1), 0.0)


def sensitivity_table(measured: Mapping[str, Mapping[str, Mapping[str, Sequence]]]) -> Table:
    """Table of [`~robust_vit_hf.evaluation.measurements.noise_sensitivity.Sensitivity`] by set and side. Top-1 is the
    mean over classes and draws of the noise, of labelled images with object and background in the crop."""
    compared = any("after" in sides for sides in measured.values())
    rows = []
    for name, sides in measured.items():
        count = int(_counts(next(iter(sides.values()))).sum())
        if not count:
            rows.append([name, "0", *(3 * len(sides) + compared) * "–"])
            continue
        regions = ("foreground", "background")
        drawn = [[_top1(columns, region, name) for columns in sides.values()] for region in regions]
        found = [Resamples.of(relative_foreground_sensitivity, *pair) for pair in zip(*drawn, strict=True)]
        accuracies = [f"{100 * top1.values[0]:.1f}" for of_region in drawn for top1 in of_region]
        cells = [str(of_side.interval(least=-1.0)) for of_side in found]
        if compared:
            cells.append(str((found[1] - found[0]).interval(Difference)))
        rows.append([name, str(count), *accuracies, *cells])
    sides_of = ["before", "after"] if compared else [""]
    texts = ("top-1, noise on the object", "on the background", "RFS")
    heads = [f"{text}, {side}" if side else text for text in texts for side in sides_of]
    title = "Relative foreground sensitivity, in per cent [95 % interval]: above 0, noise on the object costs more"
    return Table(title, ["set", "images", *heads, *(["change"] if compared else [])], rows)


def _counts(columns: Mapping[str, Sequence]) -> np.ndarray:
    """`(N,)` bool: labelled images with an object and a background."""
    share = np.asarray(columns["object_share"])
    return (share > 0) & (share < 1) & np.array([len(labels) > 0 for labels in columns["accepted"]])


def _top1(columns: Mapping[str, Sequence], region: str, name: str) -> Resamples:
    """Top-1 with noise on a region, mean over classes."""
    accepted, counts = columns["accepted"], _counts(columns)
    classes = np.where(counts, [labels[0] if len(labels) else -1 for labels in accepted], -1)
    pairs = zip(columns[region], accepted, strict=True)
    right = [np.mean([int(best) in labels for best in of_draws]) for of_draws, labels in pairs]
    of_class = {str(label): np.where(classes == label, right, np.nan) for label in np.unique(classes[counts])}
    means = Resamples.means(of_class, zlib.crc32(name.encode())).values()
    return Resamples(np.nanmean([mean.values for mean in means], axis=0), int(counts.sum()))
