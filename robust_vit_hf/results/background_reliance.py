"""Background reliance of a model on ImageNet-9, CounterAnimal, and sets with groups."""

import zlib
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from ..data.published import published_object_focus
from .bootstrap import NUM_RESAMPLED_MEANS, Difference, Interval, Resamples, mean_over
from .markdown_latex import Table
from .run_results import Results, Run, SetResult


MANY_GROUPS = 100  # a table has no rows of more


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
    """Tables of the measures and groups that a run has, in per cent, with 95 % intervals of a bootstrap over images."""
    known, rows = {result.name for result in run.labelled}, []
    published = published_object_focus().get(run.model)
    for measure, sets in MEASURES.items():
        if known.issuperset(sets):
            drawn = [_top1(run.sets[name]) for name in sets]
            gaps = {side: drawn[-2][side] - drawn[-1][side] for side in drawn[0]}
            values, kind = gaps, Difference
            if len(sets) == 3:
                values = {side: Resamples.of(object_focus, drawn[0][side], gap) for side, gap in gaps.items()}
                kind = Interval
            paper = f"{published:.1f}" if "imagenet-1k" in sets and published is not None else "–"
            rows.append([measure, *_cells(values, kind), paper])
    title = "Reliance on the background, in per cent [95 % interval]"
    tables = [Table(title, ["measure", *_head(run.labelled), "published, before"], rows)] if rows else []
    return tables + [groups_table(result) for result in run.labelled if result.groups is not None]


class Groups(NamedTuple):
    """The G groups of the N usable images of a set."""

    names: list[str]  # ascending
    numbers: np.ndarray  # `(N,)` int, group of each image
    counts: np.ndarray
    weights: list[float]  # in the average: those of training if they are known, or else equal ones
    weighted: bool  # whether they are those of training

    @classmethod
    def of(cls, result: SetResult) -> "Groups":
        names, numbers, counts = np.unique(result.groups[result.usable], return_inverse=True, return_counts=True)
        weights = result.group_weights
        weighted = weights is not None and set(names) <= weights.keys()
        return cls(names.tolist(), numbers, counts, [weights[name] if weighted else 1.0 for name in names], weighted)


def groups_table(result: SetResult) -> Table:
    """Top-1 of each group, of the worst, and on average, weighted by the shares of the groups in training if they are known. Of more
    than 100 groups, there are no rows of each. Images are drawn within each group, so that no draw misses a small one."""
    groups = Groups.of(result)
    drawn, rows = _drawn_within(result, groups), []
    few = len(groups.names) <= MANY_GROUPS
    for place, name in enumerate(groups.names if few else ()):
        of_group = {side: Resamples(top1[:, place], groups.counts[place]) for side, top1 in drawn.items()}
        rows.append([str(name), str(groups.counts[place]), *_cells(of_group)])
    worst = {side: Resamples(top1.min(axis=1), groups.counts.min()) for side, top1 in drawn.items()}
    rows.append(["worst group" if few else f"worst of {len(groups.names):,} groups", "–", *_cells(worst)])
    count, shares = groups.counts.sum(), np.array(groups.weights) / np.sum(groups.weights)
    average = {side: Resamples(top1 @ shares, count) for side, top1 in drawn.items()}
    text = "average, weighted by the training groups" if groups.weighted else "average over the groups"
    rows.append([text, str(count), *_cells(average)])
    title = f"Groups of `{result.name}`, top-1 in per cent [95 % interval]"
    return Table(title, ["group", "images", *_head([result])], rows)


def _drawn_within(result: SetResult, groups: Groups) -> dict[str, np.ndarray]:
    """Top-1 `(1 + R, G)` of each group by side: first measured, then with the images drawn within each group. Images with the same
    outcome on all sides are exchangeable, so one multinomial draw for each group replaces a draw of its images."""
    sides = [side for side in ("before", "after") if side in result.sides]
    outcomes = sum(result.correct(side)[result.usable].astype(int) << bit for bit, side in enumerate(sides))
    kinds = 2 ** len(sides)
    found = np.bincount(kinds * groups.numbers + outcomes, minlength=kinds * len(groups.names)).reshape(-1, kinds)
    rng, shares = np.random.default_rng(zlib.crc32(result.name.encode())), found / groups.counts[:, None]
    right = np.array([[kind >> bit & 1 for bit in range(len(sides))] for kind in range(kinds)])
    size, steps = (100, len(groups.names)), range(0, NUM_RESAMPLED_MEANS, 100)  # all draws at once would take memory
    counts = np.concatenate(
        [found[None] @ right, *(rng.multinomial(groups.counts, shares, size) @ right for _ in steps)]
    )
    return {side: counts[..., bit] / groups.counts for bit, side in enumerate(sides)}


def worst_group_table(results: Results) -> Table | None:
    """Top-1 of the worst group and on average over the groups, of each model and method, as means over the runs with the interval of
    their changes over seeds (Student's t); `None` without a set with groups."""
    rows = []
    for name, model, method in product(results.sets, results.models, results.methods):
        runs = [run for run in results.of(method, model) if name in run.sets and run.sets[name].groups is not None]
        if not runs:
            continue
        cells, weighted = [], all(Groups.of(run.sets[name]).weighted for run in runs)
        before, after = (
            np.array([_worst_and_average(run.sets[name], side, weighted) for run in runs]).T
            for side in ("before", "after")
        )
        for one, other in zip(before, after, strict=True):
            moved = mean_over((other - one).tolist(), [run.seed for run in runs])
            cells += [f"{100 * one.mean():.1f}", f"{100 * other.mean():.1f}", str(moved)]
        cells.append("as in training" if weighted else "equal")
        rows.append([f"{model}, {method}, `{name}`", str(len({run.seed for run in runs})), *cells])
    heads = ["worst group before", "after", "change", "average of the groups before", "after", "change", "weights"]
    title = "Groups, top-1 in per cent [95 % interval over seeds]"
    return Table(title, ["model, method, set", "seeds", *heads], rows) if rows else None


def _worst_and_average(result: SetResult, side: str, weighted: bool) -> tuple[float, float]:
    """Top-1 of the worst group, and on average over the groups, which count the same unless `weighted`."""
    groups = Groups.of(result)
    top1 = np.bincount(groups.numbers, result.correct(side)[result.usable]) / groups.counts
    return float(top1.min()), float(np.average(top1, weights=groups.weights if weighted else None))


def _head(results: Sequence[SetResult]) -> list[str]:
    return ["before", "after", "change"] if all("after" in result.sides for result in results) else ["value"]


def _top1(result: SetResult) -> dict[str, Resamples]:
    """Top-1 of each side, paired by image."""
    sides = [side for side in ("before", "after") if side in result.sides]
    columns: dict[str, np.ndarray] = {side: np.where(result.usable, result.correct(side), np.nan) for side in sides}
    return Resamples.means(columns, seed=zlib.crc32(result.name.encode()))


def _cells(values: Mapping[str, Resamples], kind: type[Interval] = Interval) -> list[str]:
    """Cells of a row: the value of each side, and the change; "–" where no image is right, by whose share is divided."""
    pairs = [(of_side, kind) for of_side in values.values()]
    if len(values) == 2:
        pairs.append((values["after"] - values["before"], Difference))
    return ["–" if np.isnan(one.values[0]) else str(one.interval(of)) for one, of in pairs]
