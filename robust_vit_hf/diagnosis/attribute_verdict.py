"""Which attribute of images beside their object a model decides by: gaps, verdict and table from predictions with those of others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from ..data.attributes import ATTRIBUTES
from ..evaluation.composites import KINDS
from ..results.intervals import Difference, Interval, Resamples, simultaneous
from ..results.set_tables import outcomes
from ..results.tables import Table
from .verdict import LARGE, SMALL, pairs_of


# Measures of an attribute by name, and their heads in the table.
ATTRIBUTE_MEASURES = {
    "gap": "gap: of its class − of another class",
    "taken": "more taken for the other class",
    "shift": "shift of the logits towards it",
    "price": "price of the edit: `original` − of its class",
}


@dataclass(frozen=True)
class AttributeDiagnosis:
    """Measures of one model, from the rows of `evaluation.measurements.other_attributes.Attributes` by name: N images with the
    attributes `names` of others."""

    columns: Mapping[str, Sequence]
    names: Sequence[str]

    @cached_property
    def values(self) -> dict[str, dict[str, np.ndarray]]:
        """`(N,)` float64 of each of [`ATTRIBUTE_MEASURES`] by attribute; NaN where an image does not count. The gap is top-1 with the
        attribute of an image of the same class minus that with one of another class; `taken` is how often this other class is
        named, minus how often it is with the attribute of the same class; and the shift how much the logit of this class gains on
        that of the right one, which tells with fewer images. Artefacts of the edit are in both, and cancel."""
        original, donor_class = outcomes(self.columns, "original"), np.asarray(self.columns["donor_class"])
        values = {}
        for name in self.names:
            same, rand = (outcomes(self.columns, f"{name}_{kind}") for kind in KINDS)
            taken = [np.asarray(self.columns[f"{name}_{kind}"]) == donor_class for kind in KINDS]
            margins = [np.asarray(self.columns[f"{name}_{kind}_margin"], float) for kind in KINDS]
            measured = {"gap": same - rand, "taken": taken[1].astype(float) - taken[0]}
            measured |= {"shift": margins[0] - margins[1], "price": original - same}
            known = ~np.isnan(same - rand)
            values[name] = {measure: np.where(known, of_images, np.nan) for measure, of_images in measured.items()}
        return values

    @cached_property
    def _drawn(self) -> dict[tuple[str, str], Resamples]:
        """By attribute and measure."""
        columns = {(name, measure): of for name, values in self.values.items() for measure, of in values.items()}
        return Resamples.means(columns)

    @cached_property
    def measures(self) -> dict[str, dict[str, Interval]]:
        """Measures by attribute. The intervals of all but the price hold for all attributes together."""
        together = simultaneous({key: drawn for key, drawn in self._drawn.items() if key[1] != "price"})
        measures: dict[str, dict[str, Interval]] = {name: {} for name, _ in self._drawn}
        for (name, measure), drawn in self._drawn.items():
            measures[name][measure] = together.get((name, measure)) or drawn.interval(Difference)
        return measures

    @cached_property
    def named(self) -> list[str]:
        """Attributes that the model decides by: those whose shift is certainly above 0, whose gap is not shown to be under [`SMALL`],
        and which no other explains; the largest shift first."""
        shifted = sorted(self.measures.items(), key=lambda item: -item[1]["shift"].mean)
        shifted = [(name, of["gap"]) for name, of in shifted if of["shift"].low > 0]
        resolved = [name for name, gap in shifted if gap.mean > 0 and gap.high >= SMALL]
        carried = [(part, whole) for part in resolved for whole in resolved if whole in ATTRIBUTES[part].carries]
        explained = set()
        for part, whole in carried:
            excess = self._drawn[whole, "shift"] - self._drawn[part, "shift"]
            explained.add(part if excess.interval(Difference).low > 0 else whole)
        return [name for name in resolved if name not in explained] or resolved[:1]

    @property
    def sentence(self) -> str:
        """The attributes that the model decides by, or may, where a gap is unresolved, with what this is based on."""
        if not self.measures:
            return "No image could be given an attribute of another."
        if not self.named:
            return self._unnamed()
        sentences = []
        for name in self.named:
            gap, shift = self.measures[name]["gap"], _shown("shift", self.measures[name]["shift"])
            how = "Decides" if gap.low >= LARGE else "Decides partly" if gap.low > 0 else "May decide"
            unresolved = "" if gap.low > 0 else " (unresolved)"
            sentences.append(
                f"{how} by {ATTRIBUTES[name].text}: that of another class instead of its own costs {gap} points of top-1{unresolved}, and "
                f"shifts the logits by {shift} towards that class."
            )
        return " ".join(sentences)

    def _unnamed(self) -> str:
        highest = max(of["gap"].high for of in self.measures.values())
        texts = ", ".join(ATTRIBUTES[name].text for name in self.measures)
        if highest < SMALL:
            return f"No sign in these images that it decides by any of: {texts}."
        name = max(self.measures, key=lambda name: self.measures[name]["gap"].mean)
        gap = self.measures[name]["gap"]
        return (
            f"Too few images to tell whether it decides by any of: {texts}. The largest gap is that of {ATTRIBUTES[name].text}, {gap} "
            f"points; about {self.needed(name):,} images would tell one of {100 * max(gap.mean, SMALL):.0f}."
        )

    def by_pair(self, name: str) -> list[dict[str, int]]:
        """How often images of a class were taken for the class whose attribute they were given, see [`Diagnosis.by_pair`]."""
        named = np.asarray(self.columns[f"{name}_rand"]) == np.asarray(self.columns["donor_class"])
        return pairs_of(self.columns, np.where(np.isnan(self.values[name]["gap"]), np.nan, named))

    def record(self) -> dict:
        """Names, sentence and measures as JSON values."""
        intervals = {
            name: {key: asdict(of) for key, of in measures.items()} for name, measures in self.measures.items()
        }
        return {"named": self.named, "sentence": self.sentence, "measures": intervals}

    def needed(self, name: str) -> int:
        """Number of images, in hundreds, that would resolve the gap of an attribute, or one of [`SMALL`] if it is smaller."""
        gap, count = self.measures[name]["gap"], int((~np.isnan(self.values[name]["gap"])).sum())
        return 100 * math.ceil(count * ((gap.mean - gap.low) / max(gap.mean, SMALL)) ** 2 / 100)


def attributes_table(diagnosis: AttributeDiagnosis, side: str) -> Table:
    """The measures of each attribute of one model, the largest gap first."""
    rows = []
    for name, measures in sorted(diagnosis.measures.items(), key=lambda item: -item[1]["gap"].mean):
        rows.append([ATTRIBUTES[name].text, *(_shown(measure, measures[measure]) for measure in ATTRIBUTE_MEASURES)])
    title = f"Attributes of other images, {side}, in points of top-1 [95 % interval, but for the price for all rows together]"
    return Table(title, ["attribute", *ATTRIBUTE_MEASURES.values()], rows)


def _shown(measure: str, interval: Interval) -> str:
    return interval.shown(1, 2) if measure == "shift" else str(interval)
