"""Slices of images by what is known of them, such as camera and site: top-1 and BG-Gap of each value, and of pairs of values."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import datasets
import numpy as np
from transformers.utils import logging

from ..data.groups import groups_of
from ..metrics.robust_accuracy import ranks
from ..results.intervals import Difference, Resamples
from ..results.run_results import SetResult, SideResult
from ..results.set_tables import groups_table
from ..results.tables import Table
from .verdict import Diagnosis


logger = logging.get_logger(__name__)

LEAST = 20  # images of a slice


def top1_table(
    name: str,
    diagnoses: Mapping[str, Diagnosis],
    groups: np.ndarray,
    weights: dict[str, float] | None,
    kept: np.ndarray | bool = True,
) -> Table:
    """Top-1 of each group of the images as they are (of those `kept`, bool), of the worst, and on average, see [`groups_table`]."""
    sides = {}
    for side, found in diagnoses.items():
        sides[side] = SideResult(ranks(np.array(found.columns["original"])[:, None], found.columns["accepted"]))
    labels = np.where(kept, next(iter(diagnoses.values())).columns["label"], -1)  # of which none counts
    return groups_table(SetResult(name, sides, labels, groups=groups, group_weights=weights))


def sliced(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each column, and each pair of columns, by the name of its table."""
    return {" × ".join(of): of for count in (1, 2) for of in combinations(columns, count)}


def slice_tables(
    dataset: datasets.Dataset,
    columns: Sequence[str],
    diagnoses: Mapping[str, Diagnosis],
    weights: Mapping[str, dict[str, float] | None],
) -> list[Table]:
    """Tables of the values of each column, and of each pair of columns, with [`LEAST`] images or more; `weights` are those of the
    values in the average, by the names of [`sliced`]."""
    tables = []
    for name, of in sliced(columns).items():
        groups = groups_of(dataset, "images", *of)
        names, numbers, counts = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
        kept = counts[numbers] >= LEAST
        if kept.any():
            few = {*names[counts < LEAST]}  # which the table would call missing
            shares = {one: share for one, share in (weights.get(name) or {}).items() if one not in few}
            tables.append(top1_table(name, diagnoses, groups, shares, kept))
            tables.append(_gaps(name, diagnoses, groups, names[counts >= LEAST]))
        elif name in columns:
            logger.warning(f"No value of `{name}` has {LEAST} images: the largest slice has {counts.max()}.")
    return tables


def _gaps(name: str, diagnoses: Mapping[str, Diagnosis], groups: np.ndarray, known: np.ndarray) -> Table:
    found = [
        Resamples.means({one: np.where(groups == one, diagnosis.values["bg_gap"], np.nan) for one in known})
        for diagnosis in diagnoses.values()
    ]
    rows = [
        [one, str((groups == one).sum()), *(str(of[one].interval(Difference)) if one in of else "–" for of in found)]
        for one in known
    ]
    return Table(f"BG-Gap of `{name}`, in points [95 % interval]", [name, "images", *diagnoses], rows)
