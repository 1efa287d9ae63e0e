"""Tables of groups, of reliance on the background, of cut-out objects, and of maps compared with masks."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from .intervals import Bootstrap, Difference, Interval, resample
from .run_results import SetResult
from .tables import Table, cells_of_sides, change, heads_of_sides, percent


MANY_GROUPS = 100  # a table of more groups has no row for each


def group_tables(results: Mapping[str, SetResult]) -> list[Table]:
    """[`groups_table`] for each labelled set that has groups."""
    labelled = (result for result in results.values() if result.usable.any())
    return [groups_table(result, result.groups) for result in labelled if result.groups is not None]


def groups_table(result: SetResult, groups: np.ndarray) -> Table:
    """Top-1 of up to 100 groups `(N,)`, of the worst, and on average, weighted by the shares of the training images if
    all are known. Resamples have as many images of each group."""
    names, numbers, counts = np.unique(groups[result.usable], return_inverse=True, return_counts=True)
    weights, sides = result.group_weights or {}, [side for side in ("before", "after") if side in result.sides]
    right = [result.correct(side)[result.usable] for side in sides]
    kinds, of_kind = np.unique(np.stack([numbers, *right], axis=1), axis=0, return_counts=True)
    drawn = resample(of_kind, kinds[:, 0], zlib.crc32(result.name.encode()))
    starts = np.unique(kinds[:, 0], return_index=True)[1]
    top1: dict[str, np.ndarray] = {}
    for place, side in enumerate(sides, 1):
        top1[side] = np.add.reduceat(drawn * kinds[:, place], starts, axis=1) / counts
    rows, few = [], len(names) <= MANY_GROUPS
    for place, name in enumerate(names if few else ()):
        of_group = {side: Bootstrap(of[:, place], counts[place]) for side, of in top1.items()}
        rows.append([str(name), str(counts[place]), *cells_of_sides(of_group)])
    worst = {side: Bootstrap(of.min(axis=1), counts.min()) for side, of in top1.items()}
    rows.append(["worst group" if few else f"worst of {len(names):,} groups", "–", *cells_of_sides(worst)])
    weighted = {*names} <= weights.keys()
    shares = np.array([weights[name] if weighted else 1.0 for name in names])
    average = {side: Bootstrap(of @ (shares / shares.sum()), counts.sum()) for side, of in top1.items()}
    text = "average, weighted by the training groups" if weighted else "average over the groups"
    rows.append([text, str(counts.sum()), *cells_of_sides(average)])
    title = f"Groups of `{result.name}`, top-1 in per cent [95 % interval]"
    if missing := sorted(weights.keys() - {*names}):
        listed = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        title += f". Without groups of the training that have no images here ({len(missing)}): {listed}"
    return Table(title, ["group", "images", *heads_of_sides([result])], rows)


def object_focus(whole: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """1 − BG-Gap / top-1 on the original images; NaN if none is right."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, 1 - gap / whole, np.nan)


_MIXED = ("imagenet-9-mixed_same", "imagenet-9-mixed_rand")
# Sets by title of the measure: the two whose difference it is, or, for Object Focus, the original images and these two.
# Sources: https://huggingface.co/papers/2006.09994; visinf/beyond-accuracy, which divides by top-1 on ImageNet;
# 2403.11497
MEASURES = {
    "ImageNet-9: BG-Gap, `mixed_same` − `mixed_rand`": _MIXED,
    "ImageNet-9: Object Focus, 1 − BG-Gap / `original`": ("imagenet-9-original", *_MIXED),
    "ImageNet-9: Object Focus, 1 − BG-Gap / top-1 on ImageNet": ("imagenet-1k", *_MIXED),
    "CounterAnimal: common − counter": ("counteranimal-common", "counteranimal-counter"),
}


def reliance_tables(results: Mapping[str, SetResult]) -> list[Table]:
    """Table of those of [`MEASURES`] whose sets were measured, in per cent; none without any."""
    known, rows = {name for name, result in results.items() if result.usable.any()}, []
    for measure, sets in MEASURES.items():
        if known.issuperset(sets):
            drawn = [_top1(results[name]) for name in sets]
            gaps = {side: drawn[-2][side] - drawn[-1][side] for side in drawn[0]}
            values, kind = gaps, Difference
            if len(sets) == 3:
                values = {side: Bootstrap.of(object_focus, drawn[0][side], gap) for side, gap in gaps.items()}
                kind = Interval
            rows.append([measure, *cells_of_sides(values, kind)])
    title = "Reliance on the background, in per cent [95 % interval]"
    return [Table(title, ["measure", *heads_of_sides([results[name] for name in known])], rows)] if rows else []


def _top1(result: SetResult) -> dict[str, Bootstrap]:
    sides = [side for side in ("before", "after") if side in result.sides]
    columns: dict[str, np.ndarray] = {side: np.where(result.usable, result.correct(side), np.nan) for side in sides}
    return Bootstrap.means(columns, seed=zlib.crc32(result.name.encode()))


def outcomes(columns: Mapping[str, Sequence], condition: str) -> np.ndarray:
    """`(N,)` float: whether predictions in a condition are right; NaN for images without object, background or
    donor."""
    ids, share = (np.asarray(columns[name]) for name in (condition, "object_share"))
    right = [int(best) in accepted for best, accepted in zip(ids, columns["accepted"], strict=True)]
    return np.where((ids >= 0) & (share > 0) & (share < 1), right, np.nan)


SEGMENTATION = {
    "pixel_accuracy": "pixel accuracy",
    "mean_iou": "mIoU",
    "mean_ap": "mAP",
    "pointing_game": "pointing game",
    "energy": "energy",
    "auc": "AUC",
}


def attribution_table(scores: Mapping[str, Mapping[str, Mapping]], set_name: str, num_images: int) -> Table:
    """Agreement of relevance maps with masks in per cent, from fractions by side, method and name."""
    rows = []
    for method in scores["before"]:
        for side, version in {"before": "original", "after": "finetuned"}.items():
            if side in scores:
                rows.append([f"{method}, {version}", *(percent(scores[side][method][name]) for name in SEGMENTATION)])
        if "after" in scores:
            before, after = scores["before"][method], scores["after"][method]
            rows.append([f"{method}, change", *(change(before[name], after[name]) for name in SEGMENTATION)])
    title = f"Relevance maps and masks of {set_name}, {num_images} images, in per cent"
    return Table(title, ["method, model", *SEGMENTATION.values()], rows)
