"""Tables of sets with groups: top-1 by group, of the worst group, and on average."""

import zlib
from itertools import product
from typing import NamedTuple

import numpy as np

from .bootstrap import NUM_RESAMPLED_MEANS, Resamples, mean_over
from .markdown_latex import Table
from .number_formats import cells_of_sides, heads_of_sides
from .run_results import Results, Run, SetResult


MANY_GROUPS = 100  # a table has no rows of more


def group_tables(run: Run) -> list[Table]:
    """[`groups_table`] of each set of a run that has groups."""
    return [groups_table(result) for result in run.labelled if result.groups is not None]


class Groups(NamedTuple):
    """The G groups of the N usable images of a set."""

    names: list[str]  # ascending
    numbers: np.ndarray  # `(N,)` int, group of each image
    counts: np.ndarray
    weights: list[float]  # in the average: those of training if they are known, or else equal ones
    weighted: bool  # whether they are those of training
    missing: list[str]  # groups of the training that have no images here, and count in no number

    @classmethod
    def of(cls, result: SetResult) -> "Groups":
        names, numbers, counts = np.unique(result.groups[result.usable], return_inverse=True, return_counts=True)
        weights = result.group_weights
        weighted = weights is not None and set(names) <= weights.keys()
        used = [weights[name] if weighted else 1.0 for name in names]
        return cls(names.tolist(), numbers, counts, used, weighted, sorted({*(weights or ())} - {*names}))


def groups_table(result: SetResult) -> Table:
    """Top-1 of each group, of the worst, and on average, weighted by the shares of the groups in training if they are known. Of more
    than 100 groups, there are no rows of each. Images are drawn within each group, so that no draw misses a small one."""
    groups = Groups.of(result)
    drawn, rows = _drawn_within(result, groups), []
    few = len(groups.names) <= MANY_GROUPS
    for place, name in enumerate(groups.names if few else ()):
        of_group = {side: Resamples(top1[:, place], groups.counts[place]) for side, top1 in drawn.items()}
        rows.append([str(name), str(groups.counts[place]), *cells_of_sides(of_group)])
    worst = {side: Resamples(top1.min(axis=1), groups.counts.min()) for side, top1 in drawn.items()}
    rows.append(["worst group" if few else f"worst of {len(groups.names):,} groups", "–", *cells_of_sides(worst)])
    count, shares = groups.counts.sum(), np.array(groups.weights) / np.sum(groups.weights)
    average = {side: Resamples(top1 @ shares, count) for side, top1 in drawn.items()}
    text = "average, weighted by the training groups" if groups.weighted else "average over the groups"
    rows.append([text, str(count), *cells_of_sides(average)])
    title = f"Groups of `{result.name}`, top-1 in per cent [95 % interval]"
    if missing := groups.missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        title += f". Without {len(missing)} groups of the training that have no images here: {shown}"
    return Table(title, ["group", "images", *heads_of_sides([result])], rows)


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
    drawn = (rng.multinomial(groups.counts, shares, size) @ right for _ in steps)
    counts = np.concatenate([found[None] @ right, *drawn])
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
        missing = {group for run in runs for group in Groups.of(run.sets[name]).missing}
        without = f", without {len(missing)} groups that have no images" if missing else ""
        cells.append(("as in training" if weighted else "equal") + without)
        rows.append([f"{model}, {method}, `{name}`", str(len({run.seed for run in runs})), *cells])
    heads = ["worst group before", "after", "change", "average of the groups before", "after", "change", "weights"]
    title = "Groups, top-1 in per cent [95 % interval over seeds]"
    return Table(title, ["model, method, set", "seeds", *heads], rows) if rows else None


def _worst_and_average(result: SetResult, side: str, weighted: bool) -> tuple[float, float]:
    """Top-1 of the worst group, and on average over the groups, which count the same unless `weighted`."""
    groups = Groups.of(result)
    top1 = np.bincount(groups.numbers, result.correct(side)[result.usable]) / groups.counts
    return float(top1.min()), float(np.average(top1, weights=groups.weights if weighted else None))
