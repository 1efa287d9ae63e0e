"""Results on a set, the outcome of each image for each side, and the table of predictions that they are computed from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

from ..data.background_edits import CONDITIONS
from ..metrics import calibration, relevance_segmentation, robust_accuracy
from ..metrics.robust_accuracy import TOP, ranks
from ..utils.files import atomic_file


# Models: before and after finetuning, and the control finetuned with only cross-entropy.
SIDES = ("before", "after", "control")
PREDICTIONS_FILE = "predictions.parquet"
FIRST = ("set", "model", "image", "condition", "label", "prediction", "probability", "weight")  # those that are known


def scores_of(table: pd.DataFrame) -> dict[str, Any]:
    """Scores of three metrics from a table of predictions: `accepted` and `predictions` (the best five); `probability`,
    `nll` and `brier` of [`calibration`]; and with masks `map` and `mask_pixels` of [`relevance_segmentation`]."""
    scores: dict[str, Any] = {}
    is_labelled = table["label"] >= 0
    if is_labelled.any() and "nll" in table:
        correct = (ranks(table["predictions"], table["accepted"]) == 0).astype(float)
        values = table[["probability", "nll", "brier"]].assign(correct=correct)
        scores |= calibration.scores(values.to_numpy(), is_labelled)
    if "map" in table:
        scores |= relevance_segmentation.scores(np.array(table["map"].tolist(), float), table["mask_pixels"])
    if is_labelled.any():
        factors = [name for name in table if name.startswith("factor_")]
        groups = table.get("group")
        if groups is None and factors:
            groups = [" ".join(map(str, values)) for values in table[factors].to_numpy()]
        accepted = [[*of_image] for of_image in table["accepted"]]
        scores |= robust_accuracy.scores(table["predictions"].tolist(), accepted, groups)
    return scores


@dataclass(frozen=True)
class SideResult:
    ranks: np.ndarray  # `(N,)` int, rank of the correct class from 0; 5 if it is not in the top five, or unknown
    scores: dict = field(default_factory=dict)  # scores over all images, as fractions
    predictions: np.ndarray = field(default_factory=lambda: np.empty((0, TOP), int))  # `(N, k)`, best k = 5 ids
    num_ranked: int = TOP  # largest k for which top-k is known


@dataclass(frozen=True)
class SetResult:
    """Results of each side, see [`SIDES`], on the N images of a set."""

    name: str
    sides: dict[str, SideResult]
    classes: np.ndarray  # `(N,)` int, first accepted labels, -1 if there is none
    shifted: bool = False  # whether the mean over shifted sets includes it
    source: str | None = None  # Hub id or folder of the images, or name of a benchmark
    factors: dict[str, np.ndarray] = field(default_factory=dict)  # `(N,)` float: angle, area, position
    images: str | None = None  # digest of the images, since runs may have been measured on other images of a set
    groups: np.ndarray | None = None  # `(N,)` names of the images' groups, of any dtype
    group_weights: dict[str, float] | None = None  # shares of the groups of the training images, if known
    clusters: np.ndarray | None = None  # `(N,)` int, equal for images drawn together, such as with one photograph
    by_class: bool = True  # otherwise images have several classes, as in ImageNet-9
    revision: str | None = None  # commit of a source on the Hub

    @classmethod
    def of(cls, name: str, tables: Mapping[str, pd.DataFrame], **facts) -> Self:
        """Results from tables of predictions by side, see [`scores_of`]."""
        first, sides = next(iter(tables.values())), {}
        for side, table in tables.items():
            best = np.array(table["predictions"].tolist())
            sides[side] = SideResult(ranks(best, table["accepted"]), scores_of(table), best, best.shape[1])
        factors = {column[len("factor_") :]: first[column].to_numpy() for column in first if "factor_" in column}
        groups = first["group"].to_numpy() if "group" in first else None
        return cls(name, sides, first["label"].to_numpy(), factors=factors, groups=groups, **facts)

    def __len__(self) -> int:
        return len(next(iter(self.sides.values())).ranks)

    @cached_property
    def usable(self) -> np.ndarray:
        return self.classes >= 0

    def correct(self, side: str, k: int = 1) -> np.ndarray:
        """`(N,)` bool: whether one of the top k classes is correct."""
        return self.sides[side].ranks < k

    def accuracy(self, side: str, k: int = 1, chosen: np.ndarray | bool = True) -> float | None:
        """Top-k as a fraction of the labelled images that are `chosen`; `None` if it is unknown."""
        chosen = self.usable & chosen
        if not chosen.any() or self.sides[side].num_ranked < k:
            return None
        return float(self.correct(side, k)[chosen].mean())

    def gains(self, k: int = 1) -> np.ndarray:
        """For each labelled image: 1 if it is corrected, -1 if it is broken, 0 otherwise."""
        return (self.correct("after", k).astype(np.int64) - self.correct("before", k))[self.usable]

    def in_classes(self, classes: Collection[int]) -> np.ndarray:
        return np.isin(self.classes, list(classes)) & self.usable


def write_predictions(path: Path, measured: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    """Write tables with a row for each image, by set and model, to one parquet file with a row for each condition too:
    `condition` and `prediction`, the predicted class, stand for the columns of predicted classes."""
    parts = [
        _by_condition(table).assign(set=name, model=model)
        for name, of_set in measured.items()
        for model, table in of_set.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    first = [name for name in FIRST if name in table]
    table = pa.Table.from_pandas(table[[*first, *table.columns.difference(first, sort=False)]], preserve_index=False)
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _by_condition(table: pd.DataFrame) -> pd.DataFrame:
    if "predictions" in table:
        return table.assign(condition="original", prediction=[best[0] for best in table["predictions"]])
    conditions = [name for name in table if name in (*CONDITIONS, "background") or f"{name}_margin" in table]
    of_images = table.drop(columns=conditions)
    return pd.concat([of_images.assign(condition=name, prediction=table[name]) for name in conditions])


def read_predictions(path: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """Read the tables that [`write_predictions`] was given, by set and model, in their order."""
    table = pd.DataFrame(pq.read_table(path).to_pydict())  # with lists instead of arrays
    measured: dict[str, dict[str, pd.DataFrame]] = {}
    for (name, model), rows in table.groupby(["set", "model"], sort=False):
        of_conditions = dict(list(rows.groupby("condition", sort=False)))
        of_model = next(iter(of_conditions.values())).drop(columns=["set", "model", "condition", "prediction"])
        of_model = of_model.dropna(axis=1, how="all").reset_index(drop=True)  # without columns of other sets
        if "predictions" not in of_model:
            of_model = of_model.assign(**{of: one["prediction"].to_numpy() for of, one in of_conditions.items()})
        measured.setdefault(name, {})[model] = of_model
    return measured
