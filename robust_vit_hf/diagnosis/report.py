"""The report of a diagnosis: its tables, as text, as a section of a page, and its files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import beta

from ..data.background_edits import ATTRIBUTES, CONDITIONS
from ..data.find_images import Images
from ..evaluation.other_backgrounds import KINDS
from ..evaluation.session import Session, write_results_json
from ..metrics.robust_accuracy import ranks
from ..results.html_page import PAGE_FILE, Section
from ..results.intervals import Interval
from ..results.plots import page_picture
from ..results.run_results import SetResult, SideResult
from ..results.tables import Table, groups_table
from ..utils.files import atomic_file, write_atomically
from . import example_strip as strips
from .example_strip import Composed, strip_figure
from .verdict import BACKGROUND_MEASURES, MAP_MEASURES, OF_A_CLASS, AttributeDiagnosis, Diagnosis, trusted_masks


STRIP_FILE, ATTRIBUTES_FILE, IMAGES_FILE = "strip.png", "attributes.png", "images.csv"


@dataclass(frozen=True)
class DiagnosisReport:
    """Result of [`diagnose`]. As text, the verdict, tables and folder.

    Args:
        diagnoses, attributes: by side, `before` and, if a second model was measured, `after`.
        examples: images in all conditions.
        taken: images chosen by [`TAKEN_RULE`].
        edited: examples with the attributes of other images.
        without_map: reasons why models have no relevance map.
        groups: tables of the groups of the images.
    """

    diagnoses: dict[str, Diagnosis]
    attributes: dict[str, AttributeDiagnosis]
    examples: list[Composed]
    taken: list[Composed]
    edited: list[Composed]
    images: Images
    folder: Path
    without_map: list[str]
    groups: list[Table]

    @property
    def verdict(self) -> str:
        sentences = [(side, of.sentence) for group in (self.diagnoses, self.attributes) for side, of in group.items()]
        several = len(self.diagnoses) > 1
        return "\n".join(f"{side.capitalize()}: {text}" if several else text for side, text in sentences)

    @property
    def warnings(self) -> list[str]:
        warnings = [warning for diagnosis in self.diagnoses.values() for warning in diagnosis.warnings]
        return list(dict.fromkeys([*warnings, *self.images.notes, *self.without_map]))

    @cached_property
    def tables(self) -> list[Table]:
        return [*diagnosis_tables(self.diagnoses), *self.groups, *self.attribute_tables]

    @property
    def attribute_tables(self) -> list[Table]:
        return [diagnosis.table(side) for side, diagnosis in self.attributes.items()]

    @cached_property
    def pairs(self) -> pd.DataFrame:
        return pair_table(self.diagnoses, self.attributes)

    @property
    def advice(self) -> list[str]:
        return advice(self.pairs, self.diagnoses)

    @property
    def table(self) -> Table:
        return self.tables[0]

    def record(self) -> dict[str, Any]:
        """The JSON values of `results.json`, without tables and settings."""
        facts: dict[str, Any] = {"masks": self.images.masks}
        facts |= {"num_images": len(self.images.rows), "num_rejected": self.images.rejected}
        facts["diagnosis"] = {side: diagnosis.record() for side, diagnosis in self.diagnoses.items()}
        if self.attributes:
            facts["attributes"] = {side: diagnosis.record() for side, diagnosis in self.attributes.items()}
        return facts | {"advice": self.advice}

    def fails(self, condition: str | float) -> bool:
        """Whether the verdict on the last model, or without a model on the photographs, is `condition`, or the lower
        bound of the BG-Gap is above this number of points. Raises a `ValueError` if no image has a BG-Gap."""
        last = [*self.diagnoses.values()][-1]
        if condition == "decides":
            return getattr(last, "likely", last.verdict) == condition
        if (gap := last.measures.get("bg_gap")) is None:
            raise ValueError(f"--fail_if {condition}: no image has a BG-Gap. Give several images of each class.")
        return 100 * gap.low > float(condition)

    def figure(self) -> Figure:
        """Images in all conditions. Raises a `ValueError` if no image could be put on another background."""
        if not self.examples:
            raise ValueError("There is nothing to show: no image could be put on another background.")
        return strip_figure(self.examples[: strips.NUM_EXAMPLES])

    def section(self) -> Section:
        notes, tables = [*self.advice, *self.warnings], [*self.tables, *matrices(self.pairs)]
        section = Section("Diagnosis: " + " ".join(self.verdict.splitlines()), tables, notes=notes)
        alt = (
            "Images in all conditions or with attributes of others, and the predicted classes. Tables hold the rates."
        )
        examples = self.examples[: strips.NUM_EXAMPLES]
        for rule, shown in ((strips.RULE, self.edited), (strips.RULE, examples), (strips.TAKEN_RULE, self.taken)):
            if shown:
                section.plots.append(page_picture(strip_figure(shown), rule, alt, "wide"))
        return section

    def __str__(self) -> str:
        look = f" Look at {self.folder / STRIP_FILE}: {strips.RULE}." if self.examples else ""
        parts = [self.verdict, *self.advice, *self.warnings]
        for table in (self.table, *self.groups, *self.attribute_tables):
            parts += [f"{table.title}:", table.markdown()]
        parts.append(f"results.json, tables and the predictions of each image: {self.folder}.{look}")
        return "\n\n".join(["", *parts])


def image_table(diagnoses: Mapping[str, Diagnosis]) -> pd.DataFrame:
    """A row for each image, with names: of image, label, donors and their class, and for each side the predicted
    classes (`before_original`, …); and `object_share`, `confirmed`, and `before_relevance_on_object` or
    `…layercam_on_object`."""
    first = next(iter(diagnoses.values()))
    names = dict(enumerate(first.class_names))  # -1, of images that could not be composed, has no name
    images = [*map(str, first.columns.get("image", range(len(first.columns["label"]))))]
    table: dict[str, object] = {"image": images, "label": [names[label] for label in first.columns["label"]]}
    for end in first.donors:
        for donor in (f"donor_same{end}", f"donor_rand{end}"):
            table[donor] = [images[row] if row >= 0 else None for row in first.columns[donor]]
        table[f"donor_class{end}"] = [names.get(label) for label in first.columns[f"donor_class{end}"]]
    table["object_share"] = first.columns["object_share"]
    table["confirmed"] = trusted_masks(first.columns)
    for side, diagnosis in diagnoses.items():
        predicted = [name for name in (*CONDITIONS, "background") if name in diagnosis.columns]
        predicted += [f"mixed_{kind}{end}" for end in first.donors[1:] for kind in KINDS]
        table |= {f"{side}_{name}": [names.get(best) for best in diagnosis.columns[name]] for name in predicted}
        of_map = next(name for name in MAP_MEASURES if name in diagnosis.columns)
        table[f"{side}_{of_map}"] = diagnosis.columns[of_map]
    return pd.DataFrame(table)


def write_report(report: DiagnosisReport, session: Session) -> None:
    folder, settings = report.folder, {name: value for name, value in session.settings.items() if value != []}
    for name in (PAGE_FILE, ATTRIBUTES_FILE, "taken.csv"):  # of a run with other settings, or of an earlier version
        (folder / name).unlink(missing_ok=True)
    of_images, last = image_table(report.diagnoses), [*report.diagnoses.values()][-1]
    taken = of_images.iloc[strips.taken_rows(last)]
    for name, table in {IMAGES_FILE: of_images, strips.TAKEN_FILE: taken, PAIRS_FILE: report.pairs}.items():
        write_atomically(folder / name, table.to_csv(index=False))
    shown_in = {STRIP_FILE: report.examples[: strips.NUM_EXAMPLES], ATTRIBUTES_FILE: report.edited}
    for name, shown in shown_in.items():
        if shown:
            with atomic_file(folder / name) as partial:
                strip_figure(shown).savefig(partial, dpi=120, format="png")
    if report.examples:
        strips.save_composed(report.examples, folder / strips.EXAMPLES_FILE)
    facts = report.record() | {"tables": [asdict(table) for table in report.tables]}
    parts: list[str | Table] = [report.verdict, *report.advice, *report.warnings, *report.tables]
    write_results_json(session, folder, settings | {"protocol": session.protocol}, facts, parts)


PAIRS_FILE = "pairs.csv"
NUM_ADVICE, MANY_CLASSES = 3, 20
WHOLE = "whole background"  # stands in the column of the attributes


def diagnosis_tables(diagnoses: Mapping[str, Diagnosis]) -> list[Table]:
    """Tables of measures, of classes, and of pairs of class and background, by side."""
    others: dict[str, Mapping[str, Interval]] = {}
    if "after" in diagnoses:
        others["change"] = diagnoses["after"].change_from(diagnoses["before"])
    for side, diagnosis in diagnoses.items():
        if not trusted_masks(diagnosis.columns).all():
            others[f"{side}, masks in doubt too"] = replace(diagnosis, with_doubts=True).measures
    rows = []
    for name, title in BACKGROUND_MEASURES.items():
        cells = [_shown(name, diagnosis.measures) for diagnosis in diagnoses.values()]
        if any(cell != "–" for cell in cells):
            rows.append([title, *cells, *(_shown(name, measures) for measures in others.values())])
    images = len(diagnoses["before"].columns["label"])
    title = f"Objects of {images} images on other backgrounds, in per cent [95 % interval]"
    tables = [Table(title, ["measure", *diagnoses, *others], rows)]
    names = diagnoses["before"].class_names
    for side, diagnosis in diagnoses.items():
        ordered = sorted(diagnosis.by_class().items(), key=lambda item: (-(item[1]["donor_rate"] or 0), item[0]))
        rows = []
        for label, of_class in ordered:
            shares = (of_class[name] for name in OF_A_CLASS)
            cells = ["–" if share is None else f"{100 * share:.0f}" for share in shares]
            rows.append([names[label], str(of_class["images"]), *cells])
        title = f"Classes, {side}, in per cent, sorted by how often they are predicted as their background's class"
        tables.append(Table(title, ["class", "images", *(BACKGROUND_MEASURES[name] for name in OF_A_CLASS)], rows))
        pairs = []
        for pair in (pair for pair in diagnosis.by_pair()[:20] if pair["as_donor"]):
            objects = f"{names[pair['label']]} on the background of {names[pair['donor_class']]}"
            pairs.append([objects, f"{pair['as_donor']} of {pair['images']}"])
        if pairs:
            tables.append(Table(f"Frequent confusions with the background, {side}", ["pair", "predicted so"], pairs))
    return tables


def _shown(name: str, measures: Mapping[str, Interval]) -> str:
    measure = measures.get(name)
    if measure is None:
        return "–"
    if name.endswith("_chance"):
        return f"{100 * measure.mean:.1f}"
    return measure.shown(1, 2) if name in MAP_MEASURES else str(measure)


def top1_table(
    name: str,
    diagnoses: Mapping[str, Diagnosis],
    groups: np.ndarray,
    weights: dict[str, float] | None,
) -> Table:
    """Top-1 of each group on the original images, see [`groups_table`]."""
    sides = {}
    for side, diagnosis in diagnoses.items():
        predicted = np.array(diagnosis.columns["original"])[:, None]
        sides[side] = SideResult(ranks(predicted, diagnosis.columns["accepted"]))
    labels = np.asarray(next(iter(diagnoses.values())).columns["label"])
    return groups_table(SetResult(name, sides, labels, groups=groups, group_weights=weights))


def pair_table(diagnoses: Mapping[str, Diagnosis], attributes: Mapping[str, AttributeDiagnosis]) -> pd.DataFrame:
    """How often images of the class `label` were predicted as the `donor_class` (`as_donor`), by `side`, sorted by the
    lower bound of the share, `at_least` (Clopper and Pearson, https://doi.org/10.1093/biomet/26.4.404, with an error of
    5 % for all pairs of a side together)."""
    rows = []
    for side, diagnosis in diagnoses.items():
        pairs = {WHOLE: diagnosis.by_pair()}
        if side in attributes:
            pairs |= {name: attributes[side].by_pair(name) for name in attributes[side].named}
        rows += [{"side": side, "attribute": name} | pair for name, of in pairs.items() for pair in of]
    table = pd.DataFrame(rows, columns=["side", "attribute", "label", "donor_class", "as_donor", "images"])
    count, images = (table[name].to_numpy(float) for name in ("as_donor", "images"))
    error = 0.05 / table.groupby("side")["as_donor"].transform("size").to_numpy(float)
    table["at_least"] = np.nan_to_num(beta.ppf(error, count, images - count + 1))
    names = next(iter(diagnoses.values())).class_names
    for column in ("label", "donor_class"):
        table[column] = [names[label] for label in table[column]]
    return table.sort_values("at_least", ascending=False, kind="stable", ignore_index=True)


def advice(pairs: pd.DataFrame, diagnoses: Mapping[str, Diagnosis]) -> list[str]:
    """What to photograph: the pairs that are confused significantly more often than by chance, of named attributes if
    there are any; none if the images do not show that the model decides by the background or an attribute."""
    side, last = list(diagnoses.items())[-1]
    chance, sentences = last.measures["donor_chance"].mean if last.num_mixed else 1.0, []
    certain = pairs[(pairs["side"] == side) & (pairs["at_least"] > chance)]
    of_attributes = certain[certain["attribute"] != WHOLE]
    if (of_attributes.empty or last.unrecognised) and last.verdict not in ("decides", "partly"):
        return []
    for row in (certain if of_attributes.empty else of_attributes).head(NUM_ADVICE).itertuples():
        how = f"on backgrounds of `{row.donor_class}`"
        if row.attribute != WHOLE:
            how = f"with {ATTRIBUTES[row.attribute].text} of `{row.donor_class}`"
        sentences.append(
            f"Photograph `{row.label}` {how}: {row.as_donor} of {row.images} are predicted as `{row.donor_class}`."
        )
    return sentences


def matrices(pairs: pd.DataFrame) -> list[Table]:
    """For each side and attribute, what was predicted as what; none for more than [`MANY_CLASSES`] classes."""
    tables, classes = [], sorted({*pairs["label"], *pairs["donor_class"]})
    for (side, attribute), of_attribute in pairs.groupby(["side", "attribute"], sort=False):
        cells = {(row.label, row.donor_class): f"{row.as_donor} of {row.images}" for row in of_attribute.itertuples()}
        rows = [[label, *(cells.get((label, donor), "–") for donor in classes)] for label in classes]
        of_pairs = "Images of a class (row) that were predicted as the class (column)"
        title = f"{of_pairs} whose {attribute} they were given, {side}"
        tables.append(Table(title, ["class", *classes], rows))
    return tables if len(classes) <= MANY_CLASSES else []
