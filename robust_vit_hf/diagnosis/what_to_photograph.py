"""Which images a model takes for the class whose background, or attribute, they are given, and what to photograph next."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special

from ..data.attributes import ATTRIBUTES
from ..results.html_page import Gallery, Picture, data_url
from ..results.tables import Table
from ..utils.images import to_webp
from .attribute_verdict import AttributeDiagnosis
from .composed_examples import Composed
from .verdict import Diagnosis


PAIRS_FILE, TAKEN_FILE = "pairs.csv", "taken.csv"
NUM_TAKEN, NUM_ADVICE, MANY_CLASSES = 20, 3, 20
TAKEN_RULE = (
    f"At most {NUM_TAKEN} images that are right as they are and on another background of their class, and are taken for the class of "
    "the background of another; those with the least relevance on the object first."
)
WHOLE = "whole background"  # beside the attributes


def pair_table(diagnoses: Mapping[str, Diagnosis], attributes: Mapping[str, AttributeDiagnosis]) -> pd.DataFrame:
    """How often images of the class `label` were taken for the `donor_class` whose background, or attribute that the verdict names,
    they were given: `taken` of `images`, by `side`; the surest first, by the lower bound of the share (Clopper and Pearson,
    https://doi.org/10.1093/biomet/26.4.404)."""
    rows = []
    for side, found in diagnoses.items():
        pairs = {WHOLE: found.by_pair()}
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
    chance, found = last.measures["donor_chance"].mean if last.num_mixed else 1.0, []
    certain = pairs[(pairs["side"] == side) & (pairs["at_least"] > chance)]
    of_attributes = certain[certain["attribute"] != WHOLE]
    for row in (certain if of_attributes.empty else of_attributes).head(NUM_ADVICE).itertuples():
        how = f"on what `{row.donor_class}` stands on"
        if row.attribute != WHOLE:
            how = f"with {ATTRIBUTES[row.attribute].text} of `{row.donor_class}`"
        found.append(f"Photograph `{row.label}` {how}: {row.taken} of {row.images} are taken for `{row.donor_class}`.")
    return found


def matrices(pairs: pd.DataFrame) -> list[Table]:
    """For each side and attribute, what was taken for what; none of many classes, whose pairs are in the CSV."""
    tables, classes = [], sorted({*pairs["label"], *pairs["donor_class"]})
    for (side, attribute), found in pairs.groupby(["side", "attribute"], sort=False):
        cells = {(row.label, row.donor_class): f"{row.taken} of {row.images}" for row in found.itertuples()}
        rows = [[label, *(cells.get((label, donor), "–") for donor in classes)] for label in classes]
        title = (
            f"Images of a class (row) that were taken for the class (column) whose {attribute} they were given, {side}"
        )
        tables.append(Table(title, ["class", *classes], rows))
    return tables if len(classes) <= MANY_CLASSES else []


def taken_rows(found: Diagnosis) -> list[int]:
    """Numbers of the images of [`TAKEN_RULE`]."""
    values = found.values
    taken = (values["donor_rate"] == 1) & (values["original"] == 1) & (values["mixed_same"] == 1)
    rows = np.flatnonzero(taken)
    return rows[np.argsort(values["relevance_on_object"][rows], kind="stable")][:NUM_TAKEN].tolist()


def taken_gallery(examples: Sequence[Composed]) -> Gallery:
    """The images of [`taken_rows`], as they are and on both backgrounds."""
    shown = []
    for one in examples:
        captions = {
            "original": one.label,
            "mixed_same": f"on another {one.label}’s",
            "mixed_rand": f"on {one.donor}’s",
        }
        pictures = [
            Picture(caption, f"{caption}, {name}.", data_url("webp", to_webp(one.pictures[name])["bytes"]))
            for name, caption in captions.items()
        ]
        shown.append((f"{one.label}, taken for {one.donor}", pictures))
    return Gallery("Taken for the class of the background", TAKEN_RULE, shown)
