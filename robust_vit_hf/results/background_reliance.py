"""Background reliance of a model on ImageNet-9 and CounterAnimal."""

import zlib
from collections.abc import Mapping

import numpy as np

from ..data.published import published_models
from .bootstrap import Difference, Interval, Resamples
from .markdown_latex import Table
from .number_formats import cells_of_sides, heads_of_sides
from .run_results import Run, SetResult


def object_focus(whole: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """1 − BG-Gap / top-1 on images as they are, arrays of one shape; NaN where no image is right as it is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, 1 - gap / whole, np.nan)


_MIXED = ("imagenet-9-mixed_same", "imagenet-9-mixed_rand")
# Sets of each measure by its title: the difference of two, or the Object Focus of images as they are and of two.
# Sources: https://huggingface.co/papers/2006.09994; visinf/beyond-accuracy, which divides by top-1 on ImageNet; 2403.11497
MEASURES = {
    "ImageNet-9: BG-Gap, `mixed_same` − `mixed_rand`": _MIXED,
    "ImageNet-9: Object Focus, 1 − BG-Gap / `original`": ("imagenet-9-original", *_MIXED),
    "ImageNet-9: Object Focus, 1 − BG-Gap / top-1 on ImageNet": ("imagenet-1k", *_MIXED),
    "CounterAnimal: common − counter": ("counteranimal-common", "counteranimal-counter"),
}
# Variations of ImageNet-9 by the condition of `robust-vit diagnose` that they show.
OF_CONDITIONS = {name: name for name in ("original", "mixed_same", "mixed_rand", "only_fg", "no_fg")}
OF_CONDITIONS["only_bg"] = "only_bg_t"


def imagenet_9_measures(results: Mapping[str, SetResult]) -> dict[str, dict[str, Interval]]:
    """The measures of [`~robust_vit_hf.diagnosis.verdict.MEASURES`] that ImageNet-9 has, by side, with 95 % intervals
    of a bootstrap over images. Images of different variations are drawn independently."""
    drawn = {condition: _top1(results[f"imagenet-9-{name}"]) for condition, name in OF_CONDITIONS.items()}
    found: dict[str, dict[str, Interval]] = {}
    for side in drawn["original"]:
        top1 = {condition: of_sides[side] for condition, of_sides in drawn.items()}
        gap = top1["mixed_same"] - top1["mixed_rand"]
        found[side] = {name: of_condition.interval() for name, of_condition in top1.items()}
        found[side]["composing"] = (top1["original"] - top1["mixed_same"]).interval(Difference)
        found[side]["bg_gap"] = gap.interval(Difference)
        if top1["original"].values[0] > 0:
            found[side]["object_focus"] = Resamples.of(object_focus, top1["original"], gap).interval()
    return found


def reliance_tables(run: Run) -> list[Table]:
    """Table of the measures that a run has, if any, in per cent, with 95 % intervals of a bootstrap over images."""
    known, rows = {result.name for result in run.labelled}, []
    published = published_models("object_focus").get(run.model)
    for measure, sets in MEASURES.items():
        if known.issuperset(sets):
            drawn = [_top1(run.sets[name]) for name in sets]
            gaps = {side: drawn[-2][side] - drawn[-1][side] for side in drawn[0]}
            values, kind = gaps, Difference
            if len(sets) == 3:
                values = {side: Resamples.of(object_focus, drawn[0][side], gap) for side, gap in gaps.items()}
                kind = Interval
            paper = f"{published:.1f}" if "imagenet-1k" in sets and published is not None else "–"
            rows.append([measure, *cells_of_sides(values, kind), paper])
    title = "Reliance on the background, in per cent [95 % interval]"
    return [Table(title, ["measure", *heads_of_sides(run.labelled), "published, before"], rows)] if rows else []


def _top1(result: SetResult) -> dict[str, Resamples]:
    """Top-1 of each side, paired by image."""
    sides = [side for side in ("before", "after") if side in result.sides]
    columns: dict[str, np.ndarray] = {side: np.where(result.usable, result.correct(side), np.nan) for side in sides}
    return Resamples.means(columns, seed=zlib.crc32(result.name.encode()))
