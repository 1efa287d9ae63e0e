"""Measures, intervals and verdict from predictions with the attributes of other images."""

import numpy as np
import pytest

from robust_vit_hf.data.background_edits import ATTRIBUTES
from robust_vit_hf.diagnosis.verdict import AttributeDiagnosis


def diagnosis(count: int = 200, price: float = 0.0, **gaps: float) -> AttributeDiagnosis:
    """A model that is right but where, for the given shares of the images, an attribute of another class makes it name that class."""
    label = np.arange(count) % 4
    donor = (label + 1 + np.arange(count) // 4 % 3) % 4
    place = np.random.default_rng(0).permutation(count) / count
    columns = {"accepted": [[int(one)] for one in label], "label": label, "original": label, "donor_class": donor}
    columns |= {"donor_same": label, "donor_rand": donor, "object_share": np.full(count, 0.1)}
    columns["confirmed"] = np.ones(count, dtype=bool)
    for number, name in enumerate(ATTRIBUTES):
        columns[f"{name}_same"] = np.where(place >= 1 - price, 9, label)
        taken = np.roll(place, number) < gaps.get(name, 0.0)
        columns[f"{name}_rand"] = np.where(taken, donor, columns[f"{name}_same"])
    return AttributeDiagnosis(columns | margins(columns), tuple(ATTRIBUTES))


def margins(columns: dict) -> dict[str, np.ndarray]:
    """Of logits that are 1 for the predicted class, and otherwise 0."""
    found = {}
    for name in (f"{attribute}_{kind}" for attribute in ATTRIBUTES for kind in ("same", "rand")):
        own, other = (columns[name] == columns[of] for of in ("label", "donor_class"))
        found[f"{name}_margin"] = own.astype(float) - other
    return found


def test_measures_are_means_over_the_images():
    found = diagnosis(price=0.1, border=0.3).measures["border"]
    assert found["gap"].mean == pytest.approx(0.3, abs=0.04) and found["donor_excess"].mean == pytest.approx(0.3)
    assert found["editing"].mean == pytest.approx(0.1)
    # The logits of the other class and of the right one.
    assert found["shift"].mean == pytest.approx(0.3 + found["gap"].mean)
    assert all(one.low < one.mean < one.high for one in found.values())


def test_images_without_a_donor_or_with_a_mask_in_doubt_do_not_count():
    whole = diagnosis(border=0.5)
    unknown = np.arange(200) < 100
    columns = whole.columns | {"confirmed": np.arange(200) >= 50}
    columns["border_rand"] = np.where(unknown & columns["confirmed"], -1, columns["border_rand"])
    values = AttributeDiagnosis(columns, whole.names).values["border"]
    assert np.isnan(values["gap"][unknown]).all() and np.isnan(values["donor_excess"][unknown]).all()
    assert not np.isnan(values["gap"][~unknown]).any()


def test_the_frame_is_named():
    found = diagnosis(border=0.6)
    assert found.named == ["border"]
    assert found.sentence.startswith("Decides by the border or frame: ") and "recognises 60.0 [" in found.sentence
    assert found.table("before").rows[0][0] == "the border or frame"
    assert diagnosis(border=0.2).sentence.startswith("Decides partly by the border or frame: ")
    both = diagnosis(2000, border=0.5, place=0.2).sentence
    assert both.startswith("Decides by the border or frame: ") and " Decides partly by the place " in both


def test_an_inconclusive_cost_is_called_so():
    """Logits that certainly follow the frame, and top-1 that may."""
    whole, rng = diagnosis(), np.random.default_rng(0)
    for_wrong = {kind: np.where(rng.random(200) < share, 9, 0) for kind, share in (("same", 0.3), ("rand", 0.35))}
    columns = {f"border_{kind}": whole.columns["label"] + wrong for kind, wrong in for_wrong.items()}
    columns["border_rand_margin"] = whole.columns["border_same_margin"] - 1
    found = AttributeDiagnosis(whole.columns | columns, whole.names)
    gap = found.measures["border"]["gap"]
    assert gap.low < 0 < gap.mean and found.named == ["border"]
    points = f"{100 * gap.mean:.1f} [{100 * gap.low:.1f}, {100 * gap.high:.1f}]"
    assert found.sentence == (
        f"May decide by the border or frame: with that of another class, it recognises {points} fewer of 100 objects than with that of their "
        "own class (inconclusive), and the logits shift by +1.00 [+0.97, +1.03] towards the other class."
    )


@pytest.mark.parametrize(
    "gaps, named",
    [
        ({"background": 0.6, "colours": 0.3, "border": 0.2}, ["background"]),  # which carries the others
        ({"background": 0.3, "colours": 0.5}, ["colours"]),  # the cast is in the background too
        ({"background": 0.4, "colours": 0.4}, ["colours"]),  # the part explains the whole that is not clearly larger
        ({"corners": 0.5, "border": 0.1}, ["corners"]),
        ({"border": 0.5, "place": 0.3}, ["border", "place"]),
        ({"border": 0.02}, []),  # which is certain, and too little
        ({}, []),
    ],
)
def test_what_another_attribute_explains_is_not_named(gaps, named):
    assert diagnosis(2000, **gaps).named == named


def test_without_an_effect():
    assert diagnosis(400).sentence.startswith("No sign in these images")
    wrong = diagnosis(400).columns | {"original": np.full(400, 9)}
    assert AttributeDiagnosis(wrong, ("border",)).sentence.startswith("It recognises too little to tell whether it")
    few = diagnosis(20, border=0.1)
    assert few.sentence.startswith("Too few images to tell") and "the border or frame" in few.sentence
    # As wide as is inconclusive: twice as narrow needs four times the images. Of a gap below 5 points, one of 5 counts.
    whole, rng = diagnosis(300), np.random.default_rng(0)
    wrong = {f"border_{kind}": np.where(rng.random(300) < 0.3, 9, whole.columns["label"]) for kind in ("same", "rand")}
    noisy = AttributeDiagnosis(whole.columns | wrong, whole.names)
    gap = noisy.measures["border"]["gap"]
    assert gap.mean < 0.05 and noisy.needed("border") == 100 * np.ceil(3 * ((gap.mean - gap.low) / 0.05) ** 2) == 600


def test_false_alarms_are_rare():
    """Of a model that is wrong at random on edited images, about one diagnosis in forty names an attribute."""
    whole, alarms = diagnosis(), 0
    for seed in range(60):
        rng, columns = np.random.default_rng(seed), dict(whole.columns)
        for name in ATTRIBUTES:
            for kind in ("same", "rand"):
                columns[f"{name}_{kind}"] = np.where(rng.random(200) < 0.3, rng.integers(0, 4, 200), columns["label"])
        alarms += bool(AttributeDiagnosis(columns | margins(columns), whole.names).named)
    assert alarms <= 4
