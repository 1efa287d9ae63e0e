"""Top-1 on objects alone, cut out by their masks: what a model knows without the background, before anything is trained."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from .bootstrap import Difference, resampled_interval, resampled_means
from .markdown_latex import Table


def cut_out_table(measured: Mapping[str, Mapping[str, Mapping[str, Sequence]]]) -> Table:
    """Table of the columns of [`~robust_vit_hf.evaluation.measurements.other_backgrounds.Backgrounds`] by set and side, in the conditions
    `original` and `only_fg`. Objects that fill the whole crop, or lie outside of it, do not count; "–" where none counts. Intervals
    are those of a bootstrap over images."""
    rows = []
    for name, sides in measured.items():
        for side, columns in sides.items():
            share = np.asarray(columns["object_share"])
            known = (share > 0) & (share < 1)
            if not known.any():
                rows.append([name, side, "0", *3 * "–"])
                continue
            right = [
                [int(best) in accepted for best, accepted in zip(columns[condition], columns["accepted"], strict=True)]
                for condition in ("original", "only_fg")
            ]
            values = np.where(known, np.array(right, dtype=float), np.nan).T
            drawn = resampled_means(values, seed=zlib.crc32(name.encode()))
            whole, alone = np.concatenate([np.nanmean(values, axis=0, keepdims=True), drawn]).T
            count = int(known.sum())
            cells = [
                resampled_interval(whole, count),
                resampled_interval(alone, count),
                resampled_interval(alone - whole, count, Difference),
            ]
            rows.append([name, side, str(count), *map(str, cells)])
    title = "Top-1 with the background and without it (the object on black), in per cent [95 % interval]"
    return Table(title, ["set", "model", "images", "as they are", "object alone", "change"], rows)
