"""Checks of an experiment against the paper's claims: agrees, disagrees, inconclusive, no test or not measured.

Source: https://huggingface.co/papers/2206.01161
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from robust_vit_hf.data.known_sets import PAPER_SETS
from robust_vit_hf.results.intervals import CONFIDENCE
from robust_vit_hf.results.tables import SEGMENTATION, Table

from ..sweeps.results import Results
from ..sweeps.runs import OURS, Run
from ..sweeps.seed_intervals import Difference, Gains, change, gains_of, mean_gain, mean_over, versus
from .paper_tables import mean_score, sets_with_masks
from .published_tables import METHODS, published_models
from .set_titles import UNSHIFTED, title_of


SIMILAR = 0.02  # largest difference that counts as similar, as a fraction
RISES, FALLS, ALIKE, KEEPS, NO_MORE = "rises", "falls", "is similar", "is as good or better", "is as good or worse"
UNTESTED = "is not tested by what was measured"
# GradMask and RRR as their papers have them, with a gradient, which is no claim of the paper's: shown if measured.
DIFFERENTIATED = "-differentiated"


class MethodClaim(NamedTuple):
    """A claim on two methods: sign of the second less the first, of the base models that it is made for, or of all."""

    source: str
    second: str
    shifted: bool
    sign: str
    statement: str  # `{}` stands for the second method
    models: tuple[str, ...] = ()
    first: str = OURS


_BOTH, _LESS = ("ViT-B", "DeiT-B"), "gains less on the shifted sets than Ours"
METHOD_CLAIMS = (
    MethodClaim("Table 4", "without-confidence", False, FALLS, "{} (ViT-B): top-1 without a shift falls", ("ViT-B",)),
    MethodClaim(
        "Table 4", "without-confidence", False, ALIKE, "{} (DeiT-B): top-1 without a shift stays similar", ("DeiT-B",)
    ),
    MethodClaim("Table 4", "without-confidence", True, FALLS, "{} (ViT-B): less gain on the shifted sets", ("ViT-B",)),
    MethodClaim(
        "Table 4", "without-confidence", True, ALIKE, "{} (DeiT-B): a similar gain on the shifted sets", ("DeiT-B",)
    ),
    MethodClaim("Table 4", "without-background", True, FALLS, "{}: less gain on the shifted sets", _BOTH),
    MethodClaim("Table 4", "without-background", False, RISES, "{}: higher top-1 without a shift", _BOTH),
    MethodClaim(
        *("Table 4", "without-foreground", True, RISES, "{}: more gain than without the background loss", _BOTH),
        first="without-background",
    ),
    MethodClaim("Table 4", "ground-truth", True, FALLS, "{} (ViT-B): less gain on the shifted sets", ("ViT-B",)),
    MethodClaim("Table 4", "ground-truth", False, RISES, "{}: higher top-1 without a shift", _BOTH),
    MethodClaim("Tables 1, 2", "gradmask", True, FALLS, f"GradMask {_LESS}"),
    MethodClaim("Tables 1, 2", f"gradmask{DIFFERENTIATED}", True, FALLS, f"GradMask, differentiated, {_LESS}"),
    MethodClaim("Tables 1, 2", "rrr", True, FALLS, f"RRR {_LESS}"),
    MethodClaim("Tables 1, 2", f"rrr{DIFFERENTIATED}", True, FALLS, f"RRR, differentiated, {_LESS}"),
    MethodClaim("Tables 1, 2", "unsupervised-masks", True, KEEPS, "Masks without annotation gain as much or more"),
)
SIZE_CLAIMS = (  # three samples of half the classes suffice
    MethodClaim("Figure 7", "more-samples", True, NO_MORE, "More samples of each class gain no more"),
    MethodClaim("Figure 7", "more-classes", True, NO_MORE, "More classes than that gain no more"),
    MethodClaim("Figure 7", "fewer-samples", True, KEEPS, "A sample less of each class does not harm much"),
    MethodClaim("Figure 7", "fewer-classes", True, KEEPS, "Fewer classes do not harm much"),
)


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, and what was measured."""

    source: str  # table, figure or section of the paper
    statement: str
    sign: str  # of the value in the claim: `RISES`, `FALLS`, `ALIKE`, `KEEPS` or `NO_MORE`; or `UNTESTED`
    value: Difference | None  # as a fraction; `None` if not measured
    set_name: str | None = None  # the one set that the claim is about, which the page of the experiment shows apart

    @property
    def measured(self) -> str:
        """The value in points; with two decimals if one would hide on which side of 0 the interval ends."""
        if self.value is None:
            return "–"
        return self.value.shown(decimals=2 if min(abs(self.value.low), abs(self.value.high)) < 0.0005 else 1)

    @property
    def levels(self) -> dict[str, float]:
        """Level of significance from which on the interval agrees with the claim, and from which on it disagrees. It
        agrees with `RISES` and `FALLS` on one side of 0 and disagrees on the other, with `ALIKE` within [`SIMILAR`] of
        0 or beyond, with `KEEPS` above −`SIMILAR` or below, and with `NO_MORE` below `SIMILAR` or above."""
        if self.value is None or self.sign == UNTESTED:
            return {}
        above, below = self.value.level, partial(self.value.level, below=True)
        agrees, disagrees = {
            RISES: (above(0), below(0)),
            FALLS: (below(0), above(0)),
            ALIKE: (max(above(-SIMILAR), below(SIMILAR)), min(above(SIMILAR), below(-SIMILAR))),
            KEEPS: (above(-SIMILAR), below(-SIMILAR)),
            NO_MORE: (below(SIMILAR), above(SIMILAR)),
        }[self.sign]
        return {"agrees": agrees, "disagrees": disagrees}


def verdicts(found: Sequence[Finding]) -> list[str]:
    """Verdict on each claim, of which all conclusive ones are right with 95 % confidence, by Holm's correction.

    Source: https://www.jstor.org/stable/4615733
    """
    given = ["not measured" if finding.value is None else "no test" for finding in found]
    tested = [(min(of.levels.values()), place) for place, of in enumerate(found) if of.levels]
    conclusive = True
    for rank, (level, place) in enumerate(sorted(tested)):
        conclusive = conclusive and level <= (1 - CONFIDENCE) / (len(tested) - rank)
        levels = found[place].levels
        given[place] = min(levels, key=levels.__getitem__) if conclusive else "inconclusive"
    return given


def findings(results: Results) -> list[Finding]:
    """All claims, measured or not. A claim for one model counts that model alone, if it was measured."""
    parts = (_of_sets(results), _of_classes(results), _compared(results, METHOD_CLAIMS), _of_maps(results))
    return [finding for part in (*parts, _compared(results, SIZE_CLAIMS)) for finding in part]


def _of_sets(results: Results) -> list[Finding]:
    """Tables 1, 2, 8 and 9."""
    ours = results.of(OURS)
    names = [*results.common(ours, results.shifted), *results.common(ours, results.unshifted)]
    expected = {name: FALLS if name in (*UNSHIFTED, "val") else RISES for name in (*PAPER_SETS, *names)}
    if names and not set(names) & set(PAPER_SETS):  # a benchmark: its sets replace those of the paper
        expected = {name: expected[name] for name in names}
    found = []
    for name, sign in expected.items():
        value = change(ours, [name]) if name in names else None
        found.append(Finding("Tables 1, 2", f"Top-1 {sign} on {title_of(name)}", sign, value, name))
    shifted = results.common(ours, results.shifted)
    of_worst = _worst_change(ours, shifted) if len({run.seed for run in ours}) > 1 and shifted else None
    found.append(Finding("Tables 8, 9", "The worst of the seeds gains on the shifted sets", RISES, of_worst))
    art = results.common(ours, ("imagenet-r", "imagenet-sketch"))
    real = results.common(ours, ("imagenet-a", "objectnet"))
    steeper = _less(change(ours, real), change(ours, art)) if len(art) == len(real) == 2 else None
    found.append(Finding("section 4", "INet-R and Sketch gain less than INet-A and ObjNet", FALLS, steeper))
    return found


def _less(one: Difference, other: Difference) -> Difference:
    """The second less the first, on other images: errors add in quadrature."""
    mean = other.mean - one.mean
    low = np.hypot(other.mean - other.low, one.high - one.mean)
    high = np.hypot(other.high - other.mean, one.mean - one.low)
    return Difference(mean, mean - float(low), mean + float(high), min(one.seeds, other.seeds))


def _worst_change(runs: Sequence[Run], names: Sequence[str]) -> Difference:
    """Change of top-1 of the seed that has the lowest, as a mean over runs and sets. Its interval is over the images,
    and so wide that with 95 % confidence it holds for all seeds (Bonferroni), as it is one of several that was
    picked."""
    seeds = sorted({run.seed for run in runs})
    confidence = 1 - (1 - CONFIDENCE) / len(seeds)
    of_seeds = [change([run for run in runs if run.seed == seed], names, confidence=confidence) for seed in seeds]
    return replace(min(of_seeds, key=lambda difference: difference.mean), seeds=len(seeds))


def _change_of_groups(runs: Sequence[Run], names: Sequence[str]) -> Difference:
    """Change of top-1 on the training classes less that on the others, as a mean over runs and sets."""
    gains: dict[str, list[Gains]] = {}
    for name in names:
        for sign, shown in ((1, True), (-1, False)):
            of_group = (gains_of(run, run.sets[name], 1, shown) for run in runs)
            gains[f"{name}, {shown}"] = [replace(gain, values=sign * gain.values) for gain in of_group]
    found = mean_gain(gains)  # a mean over twice as many sets as there are
    return replace(found, mean=2 * found.mean, low=2 * found.low, high=2 * found.high)


def _of_classes(results: Results) -> list[Finding]:
    """Figure 4, Tables 10 and 11."""
    ours = [run for run in results.of(OURS) if run.training_classes]
    shifted, unshifted = (_with_both_groups(results, ours, names) for names in (results.shifted, results.unshifted))
    both = "Both groups of classes gain similarly on the shifted sets"
    keep = "Without a shift, classes that were trained on keep more than the others"
    of_shown, of_others = (partial(change, shown=shown) for shown in (True, False))
    claims = (
        ("Figure 4", "Classes that were trained on gain on the shifted sets", RISES, shifted, of_shown),
        ("Figure 4", "The other classes gain on the shifted sets too", RISES, shifted, of_others),
        ("section 4, Appendix H", both, ALIKE, shifted, _change_of_groups),
        ("Figure 4", keep, RISES, unshifted, _change_of_groups),
    )
    return [
        Finding(source, statement, sign, how(ours, names) if names else None)
        for source, statement, sign, names, how in claims
    ]


def _with_both_groups(results: Results, runs: list[Run], names: list[str]) -> list[str]:
    """Sets with images of training classes and of others in all runs."""
    found = []
    for name in results.common_by_class(runs, names):
        shown = [run.sets[name].in_classes(run.training_classes)[run.sets[name].usable] for run in runs]
        if all(of.any() and not of.all() for of in shown):
            found.append(name)
    return found


def _compared(results: Results, claims: Sequence[MethodClaim]) -> list[Finding]:
    """Tables 1, 2 and 4, and Figure 7. Of the paper's models, only those count that a claim names."""
    found = []
    for claim in claims:
        one, two = results.of(claim.first), results.of(claim.second)
        if not two and claim.second.endswith(DIFFERENTIATED):
            continue
        if claim.models and set(results.models) & set(published_models()):
            one, two = ([run for run in runs if run.model in claim.models] for runs in (one, two))
        sets = results.common([*one, *two], results.shifted if claim.shifted else results.unshifted)
        value = versus(one, two, sets) if one and two else None
        statement = claim.statement.format(METHODS.get(claim.second))
        found.append(Finding(claim.source, statement, claim.sign, value))
    return found


def _of_maps(results: Results) -> list[Finding]:
    """Table 3."""
    runs = [run for run in results.of(OURS) if sets_with_masks(run)]
    found = []
    for score in ("pixel_accuracy", "mean_iou", "mean_ap"):
        changes = [mean_score(run, "after", score) - mean_score(run, "before", score) for run in runs]
        value = mean_over(changes, [run.seed for run in runs]) if runs else None
        statement = f"The relevance maps cover the masks better: {SEGMENTATION[score]}"
        found.append(Finding("Table 3", statement, RISES, value))
    return found


def findings_table(found: list[Finding]) -> Table:
    rows = []
    for one, verdict in zip(found, verdicts(found), strict=True):
        seeds = "–" if one.value is None else str(one.value.seeds)
        rows.append([one.source, one.statement, seeds, one.measured, *verdicts([one]), verdict])
    count = sum(bool(finding.levels) for finding in found)
    title = "Claims of the paper, measured in points with 95 % intervals; verdicts alone, and with Holm's correction "
    title += f"for {count} claims"
    return Table(title, ["source", "claim", "seeds", "measured", "alone", "of all"], rows)
