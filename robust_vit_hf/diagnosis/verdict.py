"""Measures and verdict, from predictions for composites, on whether a model decides by the background or attributes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd

from ..data.background_edits import ATTRIBUTES, CONDITIONS
from ..evaluation.other_backgrounds import KINDS
from ..results.intervals import NORMAL, Bootstrap, Difference, Interval, simultaneous
from ..results.tables import Table, object_focus


# Bounds of the verdict, as fractions of the images.
LARGE, SMALL = 0.25, 0.05
NAMED = 0.02  # least gap of an attribute that is named, as a fraction of the images
# Standard deviation of the estimate minus top-1 on truly random backgrounds, without that of the samples
# (docs/results.md).
ESTIMATE_ERROR = 0.08
TINY = 1e-3  # stands for top-1 in a resample without a right answer on other backgrounds
# Names of the measures in tables. Differences have a sign.
BACKGROUND_MEASURES = {
    **{name: f"top-1 `{name}`" for name in CONDITIONS},
    "estimate": "top-1 on random backgrounds, estimated: `original` · `mixed_rand` / `mixed_same`",
    "composing": "loss by composing: `original` − `mixed_same`",
    "bg_gap": "BG-Gap: `mixed_same` − `mixed_rand`",
    "object_focus": "Object Focus: 1 − BG-Gap / `original`",
    "donor_rate": "predicted as the class of the background",
    "donor_chance": "the same by chance",
    "donor_excess": "difference",
    "only_bg_chance": "top-1 `only_bg` by chance",
    "only_bg_excess": "difference",
    "background": "class told by only the background, before training",
    "background_chance": "the same by chance",
    "background_excess": "difference",
    "relevance_on_object": "relevance on the object / its share of the image",
    "layercam_on_object": "LayerCAM on the object / its share of the image",
}
MAP_MEASURES = ("relevance_on_object", "layercam_on_object")  # a model has one of them
OF_A_CLASS = ("original", "mixed_same", "mixed_rand", "donor_rate")  # measures in the table of classes
VERDICTS = {
    "decides": "Decides by the background",
    "partly": "Decides partly by the background",
    "no sign": "No sign in these images that it decides by the background",
    "too few": "Too few images to tell",
}
COSTS = ("donor_excess", "bg_gap")
DIFFERENCES = ("composing", *COSTS, "only_bg_excess", "background_excess")


def widened(sample: Interval) -> Interval:
    """Estimate of top-1 on random backgrounds, with the interval of the sample widened by [`ESTIMATE_ERROR`]."""
    mean = min(1.0, sample.mean)
    low, high = (math.hypot(end - mean, NORMAL * ESTIMATE_ERROR) for end in (sample.low, sample.high))
    return Interval(mean, max(0.0, mean - low), min(1.0, mean + high))


def trusted_masks(columns: Mapping[str, Sequence]) -> np.ndarray:
    """Whether the mask of each image `(N,)` is not in doubt, which results of earlier versions do not record."""
    return np.asarray(columns.get("confirmed", np.ones(len(columns["label"]), dtype=bool)))


def outcomes(columns: Mapping[str, Sequence], condition: str) -> np.ndarray:
    """`(N,)` float: whether predictions in a condition are right; NaN for images without object, background or
    donor."""
    ids, share = (np.asarray(columns[name]) for name in (condition, "object_share"))
    right = [int(best) in accepted for best, accepted in zip(ids, columns["accepted"], strict=True)]
    return np.where((ids >= 0) & (share > 0) & (share < 1), right, np.nan)


@dataclass(frozen=True)
class Diagnosis:
    """Measures of one model, from rows of [`~robust_vit_hf.evaluation.other_backgrounds.Backgrounds`]."""

    NAME: ClassVar = "The model"
    IF_WEAK: ClassVar = "check that their classes are those of the model, and check its preprocessing"

    columns: pd.DataFrame
    class_names: Sequence[str]
    with_doubts: bool = False  # whether images whose mask is in doubt count too

    @cached_property
    def donors(self) -> list[str]:
        """Ends of the names of each donor's columns, see [`~robust_vit_hf.evaluation.other_backgrounds.of_donor`]."""
        return [name.removeprefix("donor_class") for name in self.columns if name.startswith("donor_class")]

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Values `(N,)` of each measure except Object Focus, means over the donors of an image; NaN for images that do not count: without object,
        background or donor, or with a mask in doubt, unless `with_doubts`. By chance, a wrong prediction among the K
        classes is the donor's class with probability 1 / (K − 1), and one for `only_bg` is right with the frequency of
        its class."""
        labels, share = (np.asarray(self.columns[name]) for name in ("label", "object_share"))
        classes, counts = np.unique(labels, return_counts=True)
        values = {name: outcomes(self.columns, name) for name in (*CONDITIONS, "background") if name in self.columns}
        by_donor = {
            name: [outcomes(self.columns, name + end) for end in self.donors] for name in ("mixed_same", "mixed_rand")
        }
        values |= {name: _mean(of) for name, of in by_donor.items()}
        if not self.with_doubts:
            for name in values.keys() - {"original"}:
                values[name][~trusted_masks(self.columns)] = np.nan
        known = {name: ~np.isnan(of_images) for name, of_images in values.items()}
        values["composing"] = values["original"] - values["mixed_same"]
        values["bg_gap"] = values["mixed_same"] - values["mixed_rand"]
        for name in ("donor_rate", "donor_chance"):
            of_donors = []
            for end, right in zip(self.donors, by_donor["mixed_rand"], strict=True):
                mixed = np.asarray(self.columns[f"mixed_rand{end}"])
                by_chance = (np.isin(mixed, classes) & (mixed != labels)) / (len(classes) - 1)
                taken = mixed == np.asarray(self.columns[f"donor_class{end}"])
                of_donors.append(np.where(np.isnan(right), np.nan, taken if name == "donor_rate" else by_chance))
            values[name] = np.where(known["mixed_rand"], _mean(of_donors), np.nan)
        values["donor_excess"] = values["donor_rate"] - values["donor_chance"]
        frequency = dict(zip(classes.tolist(), (counts / len(labels)).tolist(), strict=True))
        for name in [name for name in ("only_bg", "background") if name in known]:
            chance = np.array([frequency.get(int(label), 0.0) for label in self.columns[name]])
            values[f"{name}_chance"] = np.where(known[name], chance, np.nan)
            values[f"{name}_excess"] = values[name] - values[f"{name}_chance"]
        trusted = trusted_masks(self.columns) | self.with_doubts
        for name in filter(self.columns.__contains__, MAP_MEASURES):
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.asarray(self.columns[name], dtype=float) / share
            values[name] = np.where(known["original"] & trusted, ratio, np.nan)
        return values

    @cached_property
    def measures(self) -> dict[str, Interval]:
        """Measures by name, see [`BACKGROUND_MEASURES`], without those that no image has."""
        drawn = Bootstrap.means(self.values, of_any_size=MAP_MEASURES)
        if {"bg_gap", "original"} <= drawn.keys() and drawn["original"].draws[0] > 0:
            drawn["object_focus"] = Bootstrap.of(object_focus, drawn["original"], drawn["bg_gap"])
        measures = {name: of.interval(Difference if name in DIFFERENCES else Interval) for name, of in drawn.items()}
        if {"mixed_rand", "mixed_same"} <= drawn.keys() and drawn["mixed_same"].draws[0] > 0:
            # Composing lowers `mixed_rand` and `mixed_same` alike.
            estimate = drawn["original"], drawn["mixed_rand"], drawn["mixed_same"]
            ratio = Bootstrap.of(lambda original, rand, same: original * rand / np.maximum(same, TINY), *estimate)
            measures["estimate"] = widened(ratio.interval())
        return measures

    @property
    def num_mixed(self) -> int:
        return int((~np.isnan(self.values["donor_rate"])).sum())

    @property
    def verdict(self) -> str:
        """Key of [`VERDICTS`], from the intervals of the BG-Gap and of the donor rate minus chance, see [`judged`]."""
        return self.judged(COSTS)

    def judged(self, names: Sequence[str]) -> str:
        """Key of [`VERDICTS`], from the intervals of these measures: `decides` if one is above 25 points; `no sign` if
        all are below 5 points, unless most images are not recognised; `partly` if one is above 0; otherwise `too
        few`."""
        intervals = [self.measures[name] for name in names if name in self.measures]
        if any(interval.low >= LARGE for interval in intervals):
            return "decides"
        is_small = all(interval.high < SMALL for interval in intervals)
        if is_small and len(intervals) == len(names) and not self.unrecognised:
            return "no sign"
        return "partly" if any(interval.low > 0 for interval in intervals) else "too few"

    @property
    def unrecognised(self) -> str | None:
        """The condition, `original` or `mixed_same`, in which the model is significantly wrong on most images."""
        conditions = [name for name in ("original", "mixed_same") if name in self.measures]
        return next((name for name in conditions if self.measures[name].high < 0.5), None)

    @property
    def sentence(self) -> str:
        if not self.num_mixed:
            return f"{VERDICTS['too few']}: no image could be composed with another background."
        if self.verdict == "too few" and (condition := self.unrecognised):
            what = "original images" if condition == "original" else "images on other backgrounds of their class"
            count = int((~np.isnan(self.values[condition])).sum())
            right = f"it is right on {percent(self.measures[condition])} of {count} {what}"
            return (
                f"{self.NAME} recognises too little to tell: {right}, and the others cannot show what it decides by."
            )
        rate, chance = self.measures["donor_rate"], self.measures["donor_chance"]
        text = f"{VERDICTS[self.verdict]}: on the background of another class, it "
        if gap := self.measures.get("bg_gap"):
            change = Difference(-gap.mean, -gap.high, -gap.low)
            text += f"recognises {change.of_100} of 100 objects than on another background of their own class. It "
        images = f"{percent(rate)} of {self.num_mixed} objects"
        text += f"predicts the class of the background for {images} (chance {100 * chance.mean:.0f} %)"
        if expected := self.measures.get("estimate"):
            text += f". On random backgrounds, expect a top-1 of {percent(expected)}"
        return f"{text}."

    @property
    def warnings(self) -> list[str]:
        warnings = []
        if (loss := self.measures.get("composing")) and loss.low > 0.1:
            warnings.append(
                f"Composing by itself lowers top-1 by {loss.unsigned} points: masks may be bad, or the model sees the "
                "edges. Look at the contact sheet of the masks and at the strip."
            )
        if self.unrecognised == "original":
            right = percent(self.measures["original"])
            warnings.append(f"{self.NAME} is right on only {right} of the original images: {self.IF_WEAK}.")
        if lost := int((np.asarray(self.columns["donor_same"]) < 0).sum()):
            warnings.append(
                f"Images have no `mixed_same` if no other image of their class can give its background: {lost} in all."
            )
        return warnings

    def change_from(self, before: "Diagnosis") -> dict[str, Interval]:
        """Change of each measure, paired by image, except chance and Object Focus."""
        kept = [name for name in self.measures if name in before.values and not name.endswith("_chance")]
        changes = {name: self.values[name] - before.values[name] for name in kept}
        drawn = Bootstrap.means(changes, of_any_size=MAP_MEASURES)
        return {name: change.difference() for name, change in drawn.items()}

    def record(self) -> dict:
        record = {name: getattr(self, name) for name in ("verdict", "sentence", "warnings", "num_mixed")}
        record["measures"] = {name: asdict(interval) for name, interval in self.measures.items()}
        return record | {"by_class": self.by_class(), "by_pair": self.by_pair()}

    def by_class(self) -> dict[int, dict[str, float | int | None]]:
        """Number of images, and means of [`OF_A_CLASS`], by class; `None` if no image counts."""
        values = pd.DataFrame({name: self.values[name] for name in OF_A_CLASS}, dtype=float)
        classes = {}
        for label, of_class in values.groupby(np.asarray(self.columns["label"])):
            means = {name: None if np.isnan(mean) else float(mean) for name, mean in of_class.mean().items()}
            classes[int(label)] = {"images": len(of_class)} | means
        return classes

    def by_pair(self) -> list[dict[str, int]]:
        """How often objects were predicted as the class of their background (`as_donor`), the most frequent first."""
        counts, tables = ~np.isnan(self.values["donor_rate"]), []
        for end in self.donors:
            names = {
                "label": "label",
                "original": "original",
                "mixed": f"mixed_rand{end}",
                "donor_class": f"donor_class{end}",
            }
            table = pd.DataFrame({name: np.asarray(self.columns[of]) for name, of in names.items()})
            taken = table["mixed"] == table["donor_class"]
            tables.append(table.assign(as_donor=taken.where(counts & (table["mixed"] >= 0))))
        table = pd.concat(tables)
        return pairs_of(table, table["as_donor"].to_numpy(float))


def _mean(of_donors: Sequence[np.ndarray]) -> np.ndarray:
    """Mean `(N,)` over donors; NaN for images without any."""
    return pd.DataFrame(dict(enumerate(of_donors))).mean(axis=1).to_numpy(float, copy=True)


def pairs_of(columns: Mapping[str, Sequence], as_donor: np.ndarray) -> list[dict[str, int]]:
    """See [`Diagnosis.by_pair`]; `as_donor` `(N,)` is NaN for images that do not count. If the class of the background
    is predicted for the original image too, that is no confusion with the background."""
    as_donor = np.where(np.asarray(columns["original"]) == np.asarray(columns["donor_class"]), 0 * as_donor, as_donor)
    mixed = pd.DataFrame({name: np.asarray(columns[name]) for name in ("label", "donor_class")})
    pairs = mixed.assign(as_donor=as_donor).dropna().astype(int).groupby(["label", "donor_class"])["as_donor"]
    rows = pairs.agg(as_donor="sum", images="size").reset_index().to_dict("records")
    return sorted(rows, key=lambda row: (-row["as_donor"], row["images"], row["label"], row["donor_class"]))


def percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


# Measures of an attribute by name, and their heads in the table.
ATTRIBUTE_MEASURES = {
    "gap": "gap: of its class − of another class",
    "donor_excess": "more predicted as the other class",
    "shift": "shift of the logits towards it",
    "editing": "loss by the edit: `original` − of its class",
}


@dataclass(frozen=True)
class AttributeDiagnosis:
    """Measures of one model, from rows of [`~robust_vit_hf.evaluation.other_backgrounds.Backgrounds`] with `attributes`."""

    columns: pd.DataFrame
    names: Sequence[str]

    @cached_property
    def values(self) -> dict[str, dict[str, np.ndarray]]:
        """Values `(N,)` of [`ATTRIBUTE_MEASURES`] by attribute; NaN for images that do not count. `gap` and
        `donor_excess` compare predictions with the attribute of the same and of another class, in which artefacts of
        the edit cancel; `shift` compares margins, which needs fewer images."""
        original, donor_class = outcomes(self.columns, "original"), np.asarray(self.columns["donor_class"])
        values = {}
        for name in self.names:
            same, rand = (outcomes(self.columns, f"{name}_{kind}") for kind in KINDS)
            as_donor = [np.asarray(self.columns[f"{name}_{kind}"]) == donor_class for kind in KINDS]
            margins = [np.asarray(self.columns[f"{name}_{kind}_margin"], float) for kind in KINDS]
            measured = {"gap": same - rand, "donor_excess": as_donor[1].astype(float) - as_donor[0]}
            measured |= {"shift": margins[0] - margins[1], "editing": original - same}
            known = ~np.isnan(same - rand) & trusted_masks(self.columns)
            values[name] = {measure: np.where(known, of_images, np.nan) for measure, of_images in measured.items()}
        return values

    @cached_property
    def _drawn(self) -> dict[tuple[str, str], Bootstrap]:
        columns = {(name, measure): of for name, values in self.values.items() for measure, of in values.items()}
        return Bootstrap.means(columns, of_any_size=[(name, "shift") for name in self.names])

    @cached_property
    def measures(self) -> dict[str, dict[str, Interval]]:
        """Measures by attribute. Intervals hold for all attributes together, except those of the loss by the edit."""
        together = simultaneous({key: drawn for key, drawn in self._drawn.items() if key[1] != "editing"})
        measures: dict[str, dict[str, Interval]] = {name: {} for name, _ in self._drawn}
        for (name, measure), drawn in self._drawn.items():
            measures[name][measure] = together.get((name, measure)) or drawn.difference()
        return measures

    @cached_property
    def named(self) -> list[str]:
        """Attributes that the model decides by, the largest shift first: those with a shift significantly above 0,
        unless the gap is less than [`NAMED`] or significantly below [`SMALL`], or another attribute explains it."""
        shifted = sorted(self.measures.items(), key=lambda item: -item[1]["shift"].mean)
        shifted = [(name, of["gap"]) for name, of in shifted if of["shift"].low > 0]
        deciding = [name for name, gap in shifted if gap.mean >= NAMED and gap.high >= SMALL]
        carried = [(part, whole) for part in deciding for whole in deciding if whole in ATTRIBUTES[part].carries]
        explained = set()
        for part, whole in carried:
            excess = self._drawn[whole, "shift"] - self._drawn[part, "shift"]
            explained.add(part if excess.difference().low > 0 else whole)
        return [name for name in deciding if name not in explained] or deciding[:1]

    @property
    def sentence(self) -> str:
        if not self.measures:
            return "No image could be given an attribute of another."
        if not self.named:
            return self._unnamed()
        sentences = []
        for name in self.named:
            gap, shift = self.measures[name]["gap"], _shown("shift", self.measures[name]["shift"])
            change = Difference(-gap.mean, -gap.high, -gap.low).of_100
            how = "Decides" if gap.low >= LARGE else "Decides partly" if gap.low > 0 else "May decide"
            than = "than with that of their own class" + ("" if gap.low > 0 else " (inconclusive)")
            text = f"with that of another class, it recognises {change} of 100 objects {than}"
            sentences.append(
                f"{how} by {ATTRIBUTES[name].text}: {text}, and the logits shift by {shift} towards the other class."
            )
        return " ".join(sentences)

    def _unnamed(self) -> str:
        highest = max(of["gap"].high for of in self.measures.values())
        texts = ", ".join(ATTRIBUTES[name].text for name in self.measures)
        if Bootstrap.means({"original": outcomes(self.columns, "original")})["original"].interval().high < 0.5:
            return f"It recognises too little to tell whether it decides by any of: {texts}."
        if highest < SMALL:
            return f"No sign in these images that it decides by any of: {texts}."
        name = max(self.measures, key=lambda name: self.measures[name]["gap"].mean)
        gap = self.measures[name]["gap"]
        largest = f"The largest gap, {gap} points, is that of {ATTRIBUTES[name].text}"
        needed = f"to tell a gap of {100 * max(gap.mean, SMALL):.0f} points takes about {self.needed(name):,} images"
        return f"Too few images to tell whether it decides by any of: {texts}. {largest}; {needed}."

    def by_pair(self, name: str) -> list[dict[str, int]]:
        """How often images were predicted as the class whose attribute they were given, see [`Diagnosis.by_pair`]."""
        named = np.asarray(self.columns[f"{name}_rand"]) == np.asarray(self.columns["donor_class"])
        return pairs_of(self.columns, np.where(np.isnan(self.values[name]["gap"]), np.nan, named))

    def record(self) -> dict:
        by_name = {name: {key: asdict(of) for key, of in measures.items()} for name, measures in self.measures.items()}
        return {"named": self.named, "sentence": self.sentence, "measures": by_name}

    def needed(self, name: str) -> int:
        """Number of images that would make the gap of an attribute significant."""
        gap, count = self.measures[name]["gap"], int((~np.isnan(self.values[name]["gap"])).sum())
        return 100 * math.ceil(count * ((gap.mean - gap.low) / max(gap.mean, SMALL)) ** 2 / 100)

    def table(self, side: str) -> Table:
        """The measures of each attribute, the largest gap first."""
        rows = []
        for name, of in sorted(self.measures.items(), key=lambda item: -item[1]["gap"].mean):
            rows.append([ATTRIBUTES[name].text, *(_shown(measure, of[measure]) for measure in ATTRIBUTE_MEASURES)])
        interval = "[95 % interval, for all rows together except in the last column]"
        title = f"Attributes of other images, {side}, in points of top-1 {interval}"
        return Table(title, ["attribute", *ATTRIBUTE_MEASURES.values()], rows)


def _shown(measure: str, interval: Interval) -> str:
    return interval.shown(1, 2) if measure == "shift" else str(interval)
