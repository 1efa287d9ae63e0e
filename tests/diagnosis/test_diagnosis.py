"""Measures, intervals and verdict from predictions on other backgrounds."""

import csv

import numpy as np
import pytest

from robust_vit_hf.data.background_edits import CONDITIONS
from robust_vit_hf.diagnosis.linear_probe import PhotographsDiagnosis
from robust_vit_hf.diagnosis.report import diagnosis_tables, image_table
from robust_vit_hf.diagnosis.verdict import Diagnosis
from robust_vit_hf.results.intervals import Bootstrap, Difference


CLASSES = 4
NAMES = ["cat", "dog", "fox", "hen", *(f"class {label}" for label in range(CLASSES, 1000))]


def diagnosis(count: int = 200, **rates: float) -> Diagnosis:
    """A model of 1000 classes, on images of four, that is right on each condition at a rate, and otherwise names the donor's class (`taken`) or,
    in `mixed_rand`, another one."""
    rates = dict.fromkeys(CONDITIONS, 1.0) | {"only_bg": 0.25, "taken": 0.0, "share": 0.1} | rates
    label = np.arange(count) % CLASSES
    donor = (label + 1 + np.arange(count) // CLASSES % (CLASSES - 1)) % CLASSES
    other = np.array([next(c for c in range(CLASSES) if c not in pair) for pair in zip(label, donor, strict=True)])
    place = np.arange(count) / count

    def right(rate: float) -> np.ndarray:
        return np.where(place < rate, label, other)

    columns = {name: right(rates[name]) for name in CONDITIONS}
    taken = place >= 1 - rates["taken"]
    columns["mixed_rand"] = np.where(taken, donor, right(rates["mixed_rand"]))
    columns |= {"label": label, "accepted": [[int(one)] for one in label], "donor_class": donor}
    columns |= {"donor_same": np.roll(np.arange(count), CLASSES), "donor_rand": donor}
    columns |= {"object_share": np.full(count, rates["share"]), "relevance_on_object": np.full(count, 0.3)}
    columns["confirmed"] = np.ones(count, dtype=bool)
    return Diagnosis(columns, NAMES)


def test_measures_are_means_over_the_images():
    found = diagnosis(original=0.9, mixed_same=0.8, mixed_rand=0.5, taken=0.3)
    means = {name: one.mean for name, one in found.measures.items()}
    assert means["original"] == pytest.approx(0.9) and means["mixed_rand"] == pytest.approx(0.5)
    assert means["composing"] == pytest.approx(0.1) and means["bg_gap"] == pytest.approx(0.3)
    assert means["object_focus"] == pytest.approx(1 - 0.3 / 0.9)
    # Half of the images are wrong, and each error hits one of the three other classes by chance.
    assert means["donor_rate"] == pytest.approx(0.3) and means["donor_chance"] == pytest.approx(0.5 / 3)
    assert means["donor_excess"] == pytest.approx(0.3 - 0.5 / 3)
    assert means["only_bg_chance"] == pytest.approx(0.25) and means["only_bg_excess"] == pytest.approx(0.0, abs=0.02)
    assert means["relevance_on_object"] == pytest.approx(3.0)
    for name, one in found.measures.items():
        assert one.low <= one.mean <= one.high, name


@pytest.mark.parametrize(
    "rates, count, verdict",
    [
        ({"mixed_rand": 0.3, "taken": 0.6}, 400, "decides"),
        ({"mixed_rand": 0.3, "taken": 0.0}, 400, "decides"),  # wrong, though not taken for the donor's class
        ({"mixed_rand": 0.85, "taken": 0.1}, 400, "partly"),
        ({}, 400, "no sign"),
        ({"mixed_rand": 0.99}, 400, "no sign"),
        ({"original": 0.6, "mixed_same": 0.6, "mixed_rand": 0.6}, 400, "no sign"),
        ({"original": 0.48, "mixed_same": 0.48, "mixed_rand": 0.48}, 400, "no sign"),  # may be right on half
        ({"original": 0.4, "mixed_same": 0.4, "mixed_rand": 0.4}, 400, "too few"),  # wrong on most as they are
        ({}, 30, "too few"),  # agreement of 30 images rules out no more than 10 %
        ({"mixed_rand": 0.9, "mixed_same": 0.9}, 20, "too few"),
        ({"mixed_rand": 0.875, "mixed_same": 0.75}, 8, "too few"),  # errors do not tell more than none would
        ({"mixed_rand": 0.3, "taken": 0.6}, 8, "decides"),
        ({"mixed_rand": 0.6, "taken": 0.4}, 8, "too few"),  # three of eight, where none has the opposite
    ],
)
def test_the_verdict_is_that_of_the_intervals(rates, count, verdict):
    assert diagnosis(count, **rates).verdict == verdict


@pytest.mark.parametrize("predicted, right", [(9, 0), (0, 25)], ids=["outside", "constant"])
def test_a_model_that_recognises_nothing_shows_nothing(predicted, right):
    """One that names no class of the images, or always the same, is not moved by a background either."""
    columns = {name: np.full(2000, predicted) for name in ("original", "mixed_same", "mixed_rand", "only_bg")}
    found = Diagnosis(diagnosis(2000).columns | columns, NAMES)
    assert all(found.measures[name].high < 0.05 for name in ("donor_excess", "bg_gap"))
    assert found.verdict == "too few"
    assert found.sentence.startswith(f"The model recognises too little to tell: it is right on {right} % [")
    assert "of 2000 original images" in found.sentence
    assert any("of the original images: check that their classes" in text for text in found.warnings)
    # It is nobody's model, so its classes and preprocessing are right.
    warnings = PhotographsDiagnosis(found.columns, found.class_names).warnings
    assert any(text.endswith("of the original images: give more photographs of each class.") for text in warnings)


def test_a_model_that_recognises_no_composed_image_shows_nothing():
    columns = {name: np.full(2000, 9) for name in ("mixed_same", "mixed_rand", "only_bg")}
    found = Diagnosis(diagnosis(2000).columns | columns, NAMES)
    assert found.measures["original"].low > 0.5 and found.verdict == "too few"
    assert "right on 0 % [0, 0] of 2000 images on other backgrounds of their class" in found.sentence


def test_the_sentence_names_the_evidence():
    found = diagnosis(400, mixed_rand=0.3, taken=0.6)
    gap, rate = found.measures["bg_gap"], found.measures["donor_rate"]
    assert found.sentence == (
        f"Decides by the background: on the background of another class, it recognises 70.0 [{100 * gap.low:.1f}, {100 * gap.high:.1f}] fewer of "
        "100 objects than on another background of their own class. It predicts the class of the background for 60 % "
        f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}] of 400 objects (chance 23 %). On random backgrounds, expect a top-1 of 30 % [14, 46]."
    )
    assert (
        "recognises 10.0 [" in (more := diagnosis(400, mixed_same=0.6, mixed_rand=0.7).sentence)
        and "] more of 100" in more
    )


def test_the_price_of_composing_is_not_that_of_the_background():
    """Composing costs 20 points here, and the background half of what is left."""
    found = diagnosis(400, original=0.9, mixed_same=0.7, mixed_rand=0.35)
    assert found.measures["estimate"].mean == pytest.approx(0.9 * 0.35 / 0.7)
    assert found.measures["estimate"].low < 0.45 - 1.96 * 0.08 and found.measures["estimate"].high > 0.45 + 1.96 * 0.08
    free = diagnosis(400, original=0.9, mixed_same=0.9, mixed_rand=0.35)
    assert free.measures["estimate"].mean == pytest.approx(0.35)
    without = diagnosis(400, mixed_same=0.0, mixed_rand=0.0)
    assert "estimate" not in without.measures and "expect" not in without.sentence


def test_images_with_masks_in_doubt_count_as_they_are_alone():
    """The last half of the images, which are right on their own background alone."""
    columns, sure = dict(diagnosis(400, original=0.75, mixed_same=1.0, mixed_rand=0.5).columns), np.arange(400) < 200
    found = Diagnosis(columns | {"confirmed": sure, "relevance_on_object": np.where(sure, 0.3, 0.1)}, NAMES)
    assert found.num_mixed == 200 and found.measures["original"].mean == 0.75
    assert found.measures["mixed_rand"].mean == 1.0 and found.measures["bg_gap"].mean == 0
    assert np.isnan(found.values["relevance_on_object"][200:]).all() and found.by_class()[0]["mixed_rand"] == 1.0
    table = diagnosis_tables({"before": found})[0]
    assert table.head == ["measure", "before", "before, masks in doubt too"]
    gaps, maps = (row[1:] for row in table.rows if row[0].startswith(("BG-Gap", "relevance")))
    assert [cell.partition(" ")[0] for cell in (*gaps, *maps)] == ["+0.0", "+50.0", "3.00", "2.00"]
    assert len(diagnosis_tables({"before": Diagnosis(columns, NAMES)})[0].head) == 2
    of_earlier_versions = {name: values for name, values in columns.items() if name != "confirmed"}
    assert Diagnosis(of_earlier_versions, NAMES).num_mixed == 400


def test_images_without_donor_or_object_do_not_count():
    found = diagnosis(40, mixed_rand=0.5)
    columns = {name: np.array(of, dtype=object if name == "accepted" else None) for name, of in found.columns.items()}
    columns["mixed_same"][:10], columns["donor_same"][:10] = -1, -1
    columns["object_share"] = np.where(np.arange(40) < 4, 0.0, columns["object_share"])
    columns["object_share"][4] = 1.0
    found = Diagnosis(columns, found.class_names)
    assert found.num_mixed == 35 and np.isnan(found.values["bg_gap"][:10]).all()
    assert found.measures["mixed_same"].mean == 1.0
    assert "if no other image of their class can give its background: 10 in all." in found.warnings[-1]


def test_a_change_is_paired_by_image():
    before, after = diagnosis(mixed_rand=0.4), diagnosis(mixed_rand=0.45)
    change = after.change_from(before)["mixed_rand"]
    assert change.mean == pytest.approx(0.05) and change.low > 0.015  # unpaired, its interval would hold 0
    assert "object_focus" not in after.change_from(before)


def test_chance_follows_the_classes_of_the_images():
    """Of 80 images of one class and 20 of another, a model that sees the first everywhere is right by chance in 80 %. A class
    without images is never that of a donor."""
    label = np.repeat([0, 1], [80, 20])
    columns = diagnosis(100).columns | {"label": label, "accepted": [[one] for one in label], "donor_class": 1 - label}
    found = Diagnosis(
        columns | {"only_bg": np.zeros(100, int), "mixed_rand": np.repeat([3, 0], [10, 90])}, NAMES
    ).measures
    assert found["only_bg_chance"].mean == pytest.approx(0.8) and found["only_bg_excess"].mean == pytest.approx(0)
    assert found["donor_chance"].mean == pytest.approx(0.2) and found["donor_excess"].mean == pytest.approx(0)


def test_intervals_cover_what_they_say():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        found = Bootstrap.means({"": (rng.random(150) < 0.3).astype(float)})[""].interval()
        covered += found.low <= 0.3 <= found.high
    assert 90 <= covered <= 99


def test_a_difference_allows_for_what_no_image_has():
    """Of 40 images, one changed to wrong, and none to right."""
    one = Bootstrap.means({"": np.where(np.arange(40) < 1, -1.0, 0.0)})[""]
    change = one.interval(Difference)
    assert (change.low, change.high) == (pytest.approx(-4 / 40), pytest.approx(2 / 40))


def test_tables():
    measures, classes, pairs = diagnosis_tables({"before": diagnosis(mixed_rand=0.5, taken=0.3)})
    assert measures.head == ["measure", "before"]
    cells = {row[0]: row[1] for row in measures.rows}
    assert cells["top-1 `mixed_rand`"].startswith("50.0 [")
    assert cells["BG-Gap: `mixed_same` − `mixed_rand`"].startswith("+50.0 [")
    assert len(classes.rows) == CLASSES and pairs.rows[0][0].count("on the background of") == 1
    compared = diagnosis_tables({"before": diagnosis(mixed_rand=0.5), "after": diagnosis(mixed_rand=0.9)})[0]
    assert compared.head == ["measure", "before", "after", "change"]
    assert {row[0]: row[3] for row in compared.rows}["top-1 `mixed_rand`"].startswith("+40.0 [")


def test_csv_without_donors_maps_and_names():
    missing = np.array([0, -1, -1])
    columns = dict.fromkeys(("donor_same", "donor_rand", "donor_class", "mixed_rand"), missing)
    columns = diagnosis(3).columns | columns | {"relevance_on_object": np.full(3, np.nan)}
    lines = image_table({"before": Diagnosis(columns, NAMES)}).to_csv(index=False).splitlines()
    first, second, _ = csv.DictReader(lines)
    names = ("image", "label", "donor_same", "donor_rand", "donor_class", "before_original", "before_mixed_rand")
    assert [first[name] for name in names] == ["0", "cat", "0", "0", "cat", "cat", "cat"]
    assert [second[name] for name in names] == ["1", "dog", "", "", "", "dog", ""]
    assert first["before_relevance_on_object"] == "" and first["object_share"] == "0.1"
