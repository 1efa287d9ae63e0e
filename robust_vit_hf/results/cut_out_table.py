"""Top-1 on objects alone, cut out by their masks: what a model knows without the background, before anything is trained."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from .bootstrap import Difference, Resamples
from .markdown_latex import Table


def cut_out_table(measured: Mapping[str, Mapping[str, Mapping[str, Sequence]]]) -> Table:
    """Table of the columns of [`~robust_vit_hf.evaluation.measurements.other_backgrounds.Backgrounds`] by set and side, in the conditions
    `original` and `only_fg`, with intervals of a bootstrap over images; "–" where no image counts, see [`outcomes`]."""
    rows = []
    for name, sides in measured.items():
        for side, columns in sides.items():
            of_conditions = {condition: outcomes(columns, condition) for condition in ("original", "only_fg")}
            drawn = Resamples.means(of_conditions, zlib.crc32(name.encode()))
            if not drawn:
                rows.append([name, side, "0", *3 * "–"])
                continue
            whole, alone = drawn.values()
            cells = [whole.interval(), alone.interval(), (alone - whole).interval(Difference)]
            rows.append([name, side, str(whole.count), *map(str, cells)])
    title = "Top-1 with the background and without it (the object on black), in per cent [95 % interval]"
    return Table(title, ["set", "model", "images", "as they are", "object alone", "change"], rows)


def outcomes(columns: Mapping[str, Sequence], condition: str) -> np.ndarray:
    """`(N,)` float: whether predictions in a condition are right; NaN where not measured, or without object or
    background."""
    ids, share = (np.asarray(columns[name]) for name in (condition, "object_share"))
    right = [int(best) in accepted for best, accepted in zip(ids, columns["accepted"], strict=True)]
    return np.where((ids >= 0) & (share > 0) & (share < 1), right, np.nan)
