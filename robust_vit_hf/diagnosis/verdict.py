"""Whether a model decides by the background: measures, verdict and tables from predictions on other backgrounds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ..data.composition import CONDITIONS
from ..results.intervals import Difference, Interval, Resamples
from ..results.set_tables import object_focus, outcomes


# Bounds of the verdict, as fractions of the images.
LARGE, SMALL = 0.25, 0.05
# Standard deviation of `mixed_rand` minus top-1 on really random backgrounds, beyond that of the samples (docs/measured.md).
FORETELLING = 0.06
# Names of the measures in tables. Differences have a sign.
BACKGROUND_MEASURES = {
    **{name: f"top-1 `{name}`" for name in CONDITIONS},
    "foretold": "top-1 on random backgrounds, foretold by `mixed_rand`",
    "composing": "price of composing: `original` − `mixed_same`",
    "bg_gap": "BG-Gap: `mixed_same` − `mixed_rand`",
    "object_focus": "Object Focus: 1 − BG-Gap / `original`",
    "donor_rate": "taken for the class of the background",
    "donor_chance": "the same by chance",
    "donor_excess": "difference",
    "only_bg_chance": "top-1 `only_bg` by chance",
    "only_bg_excess": "difference ",
    "relevance_on_object": "relevance on the object / its share of the image",
}
OF_A_CLASS = ("original", "mixed_same", "mixed_rand", "donor_rate")  # measures by class
VERDICTS = {
    "decides": "Decides by the background",
    "partly": "Decides partly by the background",
    "no sign": "No sign in these images that it decides by the background",
    "too few": "Too few images to tell",
}
DIFFERENCES = ("composing", "bg_gap", "donor_excess", "only_bg_excess")


def foretold(mixed_rand: Interval) -> Interval:
    """Top-1 on really random backgrounds, with the interval of the sample widened by [`FORETELLING`]."""
    mean = mixed_rand.mean
    low, high = (math.hypot(end - mean, 1.96 * FORETELLING) for end in (mixed_rand.low, mixed_rand.high))
    return Interval(mean, max(0.0, mean - low), min(1.0, mean + high))


@dataclass(frozen=True)
class Diagnosis:
    """Measures of one model, from the rows of `evaluation.measurements.other_backgrounds.Backgrounds` by name, of N images."""

    columns: Mapping[str, Sequence]
    class_names: Sequence[str]

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """`(N,)` float64 of each measure but Object Focus, by name; NaN where an image does not count. Objects that
        fill the whole crop, or lie outside of it, do not count, nor do images without a donor.

        Chance is what predictions that ignore the background give: for the donor's class, a wrong prediction among
        the K classes of the images hits a donor drawn from the K − 1 others with probability 1 / (K − 1); for
        `only_bg`, the prediction meets a label drawn from all images.
        """
        labels, share = (np.asarray(self.columns[name]) for name in ("label", "object_share"))
        classes, counts = np.unique(labels, return_counts=True)
        values = {name: outcomes(self.columns, name) for name in CONDITIONS}
        known = {name: ~np.isnan(of_images) for name, of_images in values.items()}
        values["composing"] = values["original"] - values["mixed_same"]
        values["bg_gap"] = values["mixed_same"] - values["mixed_rand"]
        mixed = np.asarray(self.columns["mixed_rand"])
        by_chance = (np.isin(mixed, classes) & (mixed != labels)) / (len(classes) - 1)
        taken = mixed == np.asarray(self.columns["donor_class"])
        for name, of_donor in {"donor_rate": taken, "donor_chance": by_chance}.items():
            values[name] = np.where(known["mixed_rand"], of_donor, np.nan)
        values["donor_excess"] = values["donor_rate"] - values["donor_chance"]
        frequency = dict(zip(classes.tolist(), (counts / len(labels)).tolist(), strict=True))
        chance = np.array([frequency.get(int(label), 0.0) for label in self.columns["only_bg"]])
        values["only_bg_chance"] = np.where(known["only_bg"], chance, np.nan)
        values["only_bg_excess"] = values["only_bg"] - values["only_bg_chance"]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.asarray(self.columns["relevance_on_object"], dtype=float) / share
        values["relevance_on_object"] = np.where(known["original"], ratio, np.nan)
        return values

    @cached_property
    def measures(self) -> dict[str, Interval]:
        """Measures by name, see [`BACKGROUND_MEASURES`]; those without images are left out."""
        drawn = Resamples.means(self.values)
        if {"bg_gap", "original"} <= drawn.keys() and drawn["original"].values[0] > 0:
            drawn["object_focus"] = Resamples.of(object_focus, drawn["original"], drawn["bg_gap"])
        measures = {name: of.interval(Difference if name in DIFFERENCES else Interval) for name, of in drawn.items()}
        if "mixed_rand" in measures:
            measures["foretold"] = foretold(measures["mixed_rand"])
        return measures

    @property
    def num_mixed(self) -> int:
        """Number of objects that were measured on the background of another class."""
        return int((~np.isnan(self.values["donor_rate"])).sum())

    @property
    def verdict(self) -> str:
        """Key of [`VERDICTS`], from the 95 % intervals of the donor rate beyond chance and of the BG-Gap: `decides` if one of them
        is at least 25 points; `no sign` if both are under 5 points, and the model may recognise half of the images, as they are
        and on other backgrounds of their class; `partly` if one of them is above 0; otherwise `too few`."""
        intervals = [self.measures[name] for name in ("donor_excess", "bg_gap") if name in self.measures]
        if any(interval.low >= LARGE for interval in intervals):
            return "decides"
        if len(intervals) == 2 and all(interval.high < SMALL for interval in intervals) and not self._unrecognised:
            return "no sign"
        return "partly" if any(interval.low > 0 for interval in intervals) else "too few"

    @property
    def _unrecognised(self) -> str | None:
        """Condition without the background of another class in which the model is wrong on more than half of the images with 95 %
        confidence, so that the background of another class can cost little; `None` if there is none."""
        conditions = [name for name in ("original", "mixed_same") if name in self.measures]
        return next((name for name in conditions if self.measures[name].high < 0.5), None)

    @property
    def sentence(self) -> str:
        """The verdict with what it is based on, and the top-1 that it foretells."""
        if not self.num_mixed:
            return f"{VERDICTS['too few']}: none of {len(self.columns['label'])} images could be composed with another background."
        if self.verdict == "too few" and self._unrecognised:
            how = "as they are" if self._unrecognised == "original" else "on other backgrounds of their class"
            count = int((~np.isnan(self.values[self._unrecognised])).sum())
            return (
                f"The model recognises too little to tell: it is right on {_percent(self.measures[self._unrecognised])} of {count} images "
                f"{how}, and the others cannot show what it decides by."
            )
        rate, chance = self.measures["donor_rate"], self.measures["donor_chance"]
        text = (
            f"{VERDICTS[self.verdict]}: of {self.num_mixed} objects on the background of another class, "
            f"{_percent(rate)} were taken for that class (chance {100 * chance.mean:.0f} %)"
        )
        if gap := self.measures.get("bg_gap"):
            text += f"; the background of another class instead of its own costs {gap} points of top-1"
        return f"{text}. On random backgrounds, expect a top-1 of {_percent(self.measures['foretold'])}."

    @property
    def warnings(self) -> list[str]:
        """What stands in the way of the verdict."""
        warnings = []
        if (price := self.measures.get("composing")) and price.low > 0.1:
            warnings.append(
                f"Composing alone costs {price} points of top-1: masks may be bad, or the model sees the edges. Look at "
                "the contact sheet of the masks and at the strip."
            )
        if self._unrecognised == "original":
            warnings.append(
                f"The model is right on {_percent(self.measures['original'])} of the images as they are: see whether their classes are its "
                "own, and its preprocessing too."
            )
        if lost := int((np.asarray(self.columns["donor_same"]) < 0).sum()):
            warnings.append(f"{lost} images are the only one of their class, and have no `mixed_same`.")
        return warnings

    def change_from(self, before: "Diagnosis") -> dict[str, Interval]:
        """Change of each measure from another model on the same images, paired by image, but for chance and Object Focus."""
        kept = [name for name in self.measures if name in before.values and not name.endswith("_chance")]
        drawn = Resamples.means({name: self.values[name] - before.values[name] for name in kept})
        if ratio := drawn.get("relevance_on_object"):
            drawn["relevance_on_object"] = replace(ratio, outcomes=None)  # whose bounds are not -1 and 1
        return {name: change.interval(Difference) for name, change in drawn.items()}

    def record(self) -> dict:
        """Verdict, measures, classes and pairs as JSON values."""
        record = {name: getattr(self, name) for name in ("verdict", "sentence", "warnings", "num_mixed")}
        record["measures"] = {name: asdict(interval) for name, interval in self.measures.items()}
        return record | {"by_class": self.by_class(), "by_pair": self.by_pair()}

    def by_class(self) -> dict[int, dict[str, float | int | None]]:
        """Number of images, and means of the measures in [`OF_A_CLASS`], by class; `None` where no image counts."""
        values = pd.DataFrame({name: self.values[name] for name in OF_A_CLASS}, dtype=float)
        classes = {}
        for label, of_class in values.groupby(np.asarray(self.columns["label"])):
            means = {name: None if np.isnan(mean) else float(mean) for name, mean in of_class.mean().items()}
            classes[int(label)] = {"images": len(of_class)} | means
        return classes

    def by_pair(self) -> list[dict[str, int]]:
        """How often objects of a class were taken for the class of their background: `label`, `donor_class`, `taken`
        and `images`, the most often taken first."""
        return pairs_of(self.columns, self.values["donor_rate"])


def pairs_of(columns: Mapping[str, Sequence], taken: np.ndarray) -> list[dict[str, int]]:
    """See [`Diagnosis.by_pair`]; `taken` `(N,)` is NaN where an image does not count."""
    mixed = pd.DataFrame({name: np.asarray(columns[name]) for name in ("label", "donor_class")} | {"taken": taken})
    pairs = mixed.dropna().astype(int).groupby(["label", "donor_class"])["taken"]
    rows = pairs.agg(taken="sum", images="size").reset_index().to_dict("records")
    return sorted(rows, key=lambda row: (-row["taken"], row["images"], row["label"], row["donor_class"]))


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
