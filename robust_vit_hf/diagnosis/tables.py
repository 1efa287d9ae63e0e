"""Tables of a diagnosis: measures and classes, groups of images and --slices, and what was taken for what."""

from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pandas as pd
from scipy import special
from transformers.utils import logging

from ..data.attributes import ATTRIBUTES
from ..data.groups import groups_of, slices_of
from ..metrics.robust_accuracy import ranks
from ..results.intervals import Difference, Interval, Resamples
from ..results.run_results import SetResult, SideResult
from ..results.set_tables import groups_table
from ..results.tables import Table
from .attribute_verdict import AttributeDiagnosis
from .verdict import BACKGROUND_MEASURES, OF_A_CLASS, Diagnosis


logger = logging.get_logger(__name__)

LEAST = 20  # images of a slice
PAIRS_FILE = "pairs.csv"
NUM_ADVICE, MANY_CLASSES = 3, 20
WHOLE = "whole background"  # beside the attributes


def diagnosis_tables(
    diagnoses: Mapping[str, Diagnosis], beside: Mapping[str, Mapping[str, Interval]] | None = None
) -> list[Table]:
    """Tables of one model or two (`before`, `after`): measures, classes, and pairs of class and background. `beside` has measures on
    other images, by the head of their column."""
    beside = dict(beside or {})
    if "after" in diagnoses:
        beside = {"change": diagnoses["after"].change_from(diagnoses["before"])} | beside
    rows = []
    for name, title in BACKGROUND_MEASURES.items():
        cells = [_shown(name, diagnosis.measures) for diagnosis in diagnoses.values()]
        if any(cell != "–" for cell in cells):
            rows.append([title.strip(), *cells, *(_shown(name, measures) for measures in beside.values())])
    images = len(diagnoses["before"].columns["label"])
    title = f"Objects of {images} images on other backgrounds, in per cent [95 % interval]"
    tables = [Table(title, ["measure", *diagnoses, *beside], rows)]
    names = diagnoses["before"].class_names
    for side, diagnosis in diagnoses.items():
        ordered = sorted(diagnosis.by_class().items(), key=lambda item: (-(item[1]["donor_rate"] or 0), item[0]))
        rows = []
        for label, of_class in ordered:
            shares = ("–" if of_class[name] is None else f"{100 * of_class[name]:.0f}" for name in OF_A_CLASS)
            rows.append([names[label], str(of_class["images"]), *shares])
        title = f"Classes, {side}, in per cent: the most often taken for the class of their background first"
        tables.append(Table(title, ["class", "images", *(BACKGROUND_MEASURES[name] for name in OF_A_CLASS)], rows))
        pairs = []
        for pair in (pair for pair in diagnosis.by_pair()[:20] if pair["taken"]):
            objects = f"{names[pair['label']]} on the background of {names[pair['donor_class']]}"
            pairs.append([objects, f"{pair['taken']} of {pair['images']}"])
        if pairs:
            tables.append(Table(f"Most frequent confusions with the background, {side}", ["pair", "taken"], pairs))
    return tables


def _shown(name: str, measures: Mapping[str, Interval]) -> str:
    measure = measures.get(name)
    if measure is None:
        return "–"
    if name.endswith("_chance"):
        return f"{100 * measure.mean:.1f}"
    return measure.shown(1, 2) if name == "relevance_on_object" else str(measure)


def top1_table(
    name: str,
    diagnoses: Mapping[str, Diagnosis],
    groups: np.ndarray,
    weights: dict[str, float] | None,
    kept: np.ndarray | bool = True,
) -> Table:
    """Top-1 of each group of the images as they are (of those `kept`, bool), of the worst, and on average, see [`groups_table`]."""
    sides = {}
    for side, diagnosis in diagnoses.items():
        predicted = np.array(diagnosis.columns["original"])[:, None]
        sides[side] = SideResult(ranks(predicted, diagnosis.columns["accepted"]))
    labels = np.where(kept, next(iter(diagnoses.values())).columns["label"], -1)  # of which none counts
    return groups_table(SetResult(name, sides, labels, groups=groups, group_weights=weights))


def slice_tables(
    dataset: datasets.Dataset,
    columns: Sequence[str],
    diagnoses: Mapping[str, Diagnosis],
    weights: Mapping[str, dict[str, float] | None],
) -> list[Table]:
    """Top-1 and BG-Gap of the groups of each of [`slices_of`] the columns, with [`LEAST`] images or more; `weights` are those of the
    groups in the average, by the same names."""
    tables = []
    for name, of_slice in slices_of(columns).items():
        groups = groups_of(dataset, "images", *of_slice)
        names, numbers, counts = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
        kept = counts[numbers] >= LEAST
        if kept.any():
            few = {*names[counts < LEAST]}  # which the table would call missing
            shares = {group: share for group, share in (weights.get(name) or {}).items() if group not in few}
            tables.append(top1_table(name, diagnoses, groups, shares, kept))
            tables.append(_gaps(name, diagnoses, groups, names[counts >= LEAST]))
        elif name in columns:
            logger.warning(f"No value of `{name}` has {LEAST} images: the largest slice has {counts.max()}.")
    return tables


def _gaps(name: str, diagnoses: Mapping[str, Diagnosis], groups: np.ndarray, known: np.ndarray) -> Table:
    gaps = []
    for diagnosis in diagnoses.values():
        of_groups = {group: np.where(groups == group, diagnosis.values["bg_gap"], np.nan) for group in known}
        gaps.append(Resamples.means(of_groups))
    rows = []
    for group in known:
        cells = (str(of_side[group].interval(Difference)) if group in of_side else "–" for of_side in gaps)
        rows.append([group, str((groups == group).sum()), *cells])
    return Table(f"BG-Gap of `{name}`, in points [95 % interval]", [name, "images", *diagnoses], rows)


def pair_table(diagnoses: Mapping[str, Diagnosis], attributes: Mapping[str, AttributeDiagnosis]) -> pd.DataFrame:
    """How often images of the class `label` were taken for the `donor_class` whose background, or attribute that the verdict names,
    they were given: `taken` of `images`, by `side`; the surest first, by the lower bound of the share (Clopper and Pearson,
    https://doi.org/10.1093/biomet/26.4.404)."""
    rows = []
    for side, diagnosis in diagnoses.items():
        pairs = {WHOLE: diagnosis.by_pair()}
        if side in attributes:
            pairs |= {name: attributes[side].by_pair(name) for name in attributes[side].named}
        rows += [{"side": side, "attribute": name} | pair for name, of in pairs.items() for pair in of]
    table = pd.DataFrame(rows, columns=["side", "attribute", "label", "donor_class", "taken", "images"])
    taken, images = (table[name].to_numpy(float) for name in ("taken", "images"))
    table["at_least"] = np.where(taken > 0, special.betaincinv(np.maximum(taken, 1), images - taken + 1, 0.025), 0.0)
    names = next(iter(diagnoses.values())).class_names
    for column in ("label", "donor_class"):
        table[column] = [names[label] for label in table[column]]
    return table.sort_values("at_least", ascending=False, kind="stable", ignore_index=True)


def advice(pairs: pd.DataFrame, diagnoses: Mapping[str, Diagnosis]) -> list[str]:
    """What to photograph for the last model: pairs that are taken more often than by chance, at 97.5 % each; those of attributes that
    the verdict names, if it names any, since the whole background carries them."""
    side, last = list(diagnoses.items())[-1]
    chance, sentences = last.measures["donor_chance"].mean if last.num_mixed else 1.0, []
    certain = pairs[(pairs["side"] == side) & (pairs["at_least"] > chance)]
    of_attributes = certain[certain["attribute"] != WHOLE]
    for row in (certain if of_attributes.empty else of_attributes).head(NUM_ADVICE).itertuples():
        how = f"on what `{row.donor_class}` stands on"
        if row.attribute != WHOLE:
            how = f"with {ATTRIBUTES[row.attribute].text} of `{row.donor_class}`"
        sentences.append(
            f"Photograph `{row.label}` {how}: {row.taken} of {row.images} are taken for `{row.donor_class}`."
        )
    return sentences


def matrices(pairs: pd.DataFrame) -> list[Table]:
    """For each side and attribute, what was taken for what; none of many classes, whose pairs are in the CSV."""
    tables, classes = [], sorted({*pairs["label"], *pairs["donor_class"]})
    for (side, attribute), of_attribute in pairs.groupby(["side", "attribute"], sort=False):
        cells = {(row.label, row.donor_class): f"{row.taken} of {row.images}" for row in of_attribute.itertuples()}
        rows = [[label, *(cells.get((label, donor), "–") for donor in classes)] for label in classes]
        title = (
            f"Images of a class (row) that were taken for the class (column) whose {attribute} they were given, {side}"
        )
        tables.append(Table(title, ["class", *classes], rows))
    return tables if len(classes) <= MANY_CLASSES else []
