"""Tables of a diagnosis: columns of the images, pairs of classes that are taken for each other, and what to photograph next."""

from types import SimpleNamespace

import numpy as np
import pytest

from robust_vit_hf.data.background_edits import CONDITIONS
from robust_vit_hf.diagnosis.example_strip import taken_rows
from robust_vit_hf.diagnosis.linear_probe import PhotographsDiagnosis
from robust_vit_hf.diagnosis.report import WHOLE, DiagnosisReport, advice, matrices, pair_table
from robust_vit_hf.diagnosis.verdict import AttributeDiagnosis, Diagnosis


NAMES = ["cow", "boat", "cat"]


def columns() -> dict:
    """24 images: of 12 cows on the background of boats, 9 are taken for boats; of 12 boats on that of cats, none is."""
    label, donor = np.repeat([0, 1], 12), np.repeat([1, 2], 12)
    found = dict.fromkeys(CONDITIONS, label)
    found["mixed_rand"] = np.where((np.arange(24) % 4 > 0) & (label == 0), donor, label)
    found |= {"label": label, "accepted": [[int(one)] for one in label], "donor_class": donor, "donor_rand": donor}
    found |= {"donor_same": label, "object_share": np.full(24, 0.1), "relevance_on_object": np.linspace(0.9, 0.1, 24)}
    found["confirmed"] = np.ones(24, dtype=bool)
    return found


def test_a_sentence_says_what_to_photograph():
    diagnoses = {"before": Diagnosis(columns(), NAMES)}
    pairs = pair_table(diagnoses, {})
    assert pairs[["label", "donor_class", "as_donor", "images"]].values.tolist() == [
        ["cow", "boat", 9, 12],
        ["boat", "cat", 0, 12],
    ]
    assert pairs["at_least"].tolist() == pytest.approx([0.428, 0.0], abs=1e-3)  # of binom.test(9, 12) in R
    assert advice(pairs, diagnoses) == ["Photograph `cow` on backgrounds of `boat`: 9 of 12 are predicted as `boat`."]
    anyway = columns() | {"original": columns()["donor_class"]}  # is no confusion
    assert pair_table({"before": Diagnosis(anyway, NAMES)}, {})["as_donor"].tolist() == [0, 0]
    mended = {**diagnoses, "after": Diagnosis(columns() | {"mixed_rand": columns()["label"]}, NAMES)}
    assert advice(pair_table(mended, {}), mended) == []  # it is for the last model, and so is `--fail_if`
    assert [DiagnosisReport.fails(SimpleNamespace(diagnoses=of), 5) for of in (diagnoses, mended)] == [True, False]
    (matrix,) = matrices(pairs)
    assert matrix.head == ["class", "boat", "cat", "cow"]
    assert matrix.rows == [["boat", "–", "0 of 12", "–"], ["cat", "–", "–", "–"], ["cow", "9 of 12", "–", "–"]]


def test_a_named_attribute_has_pairs_too():
    own = columns()
    edited = {"border_same": own["label"], "border_rand": own["donor_class"]}
    edited |= {"border_same_margin": np.full(24, 3.0), "border_rand_margin": np.full(24, -3.0)}
    diagnoses = {"before": Diagnosis(own, NAMES)}
    attribute = AttributeDiagnosis(own | edited, ["border"])
    pairs = pair_table(diagnoses, {"before": attribute})
    assert pairs["attribute"].tolist() == ["border", "border", WHOLE, WHOLE]
    assert pairs["at_least"][0] == pytest.approx((0.05 / 4) ** (1 / 12))  # 12 of 12, in one of four pairs
    shift = attribute.measures["border"]["shift"]
    assert shift.high > shift.mean == 6  # of logits, and not a share
    frames = [
        f"Photograph `{one}` with the border or frame of `{of}`: 12 of 12 are predicted as `{of}`."
        for one, of in (("cow", "boat"), ("boat", "cat"))
    ]
    assert advice(pairs, diagnoses) == frames
    wrong = dict.fromkeys(("original", "mixed_same", "mixed_rand"), np.where(own["label"] == 0, 2, 0))
    weak = {"before": Diagnosis(own | wrong, NAMES)}
    assert "recognises too little" in weak["before"].sentence and advice(pairs, weak) == []
    assert len(matrices(pairs)) == 2


def test_photographs_are_judged_by_what_backgrounds_tell():
    """Also of a model that does not use it. One cow stands where boats do."""
    own = columns() | {"mixed_rand": columns()["label"]}
    found = PhotographsDiagnosis(own | {"background": np.where(np.arange(24) == 0, 1, own["label"])}, NAMES)
    assert found.likely == "decides" != found.verdict
    rows = [["boat", "12 of 12", "–", "cow"], ["cow", "11 of 12", "boat (1)", "–"]]
    assert found.told_table().rows == rows


def test_the_images_that_are_taken():
    rows = taken_rows(Diagnosis(columns(), NAMES))
    assert rows == [11, 10, 9, 7, 6, 5, 3, 2, 1]  # the least relevance on the object first
    wrong = columns() | {"mixed_same": np.full(24, 2)}  # so that it is not the background of the other class
    assert taken_rows(Diagnosis(wrong, NAMES)) == []


def of_24_classes(label: np.ndarray, taken_for: np.ndarray) -> dict[str, Diagnosis]:
    """Images of which each gets the background of the next class, and is then taken for another."""
    own = {name: np.resize(of, len(label)) for name, of in columns().items() if name != "accepted"}
    own |= dict.fromkeys(CONDITIONS, label) | {"mixed_rand": taken_for, "donor_class": (label + 1) % 24}
    own |= {"label": label, "accepted": [[int(one)] for one in label]}
    return {"before": Diagnosis(own, [str(one) for one in range(24)])}


def test_a_pair_by_chance_among_many_is_no_advice():
    """The images of one class of 24 are taken for the next: 3 of 3, which would be certain of one pair alone, are not."""
    for count, advised in ((3, 0), (12, 1)):
        label = np.repeat(np.arange(24), count)
        diagnoses = of_24_classes(label, np.where(label == 0, 1, label))
        pairs = pair_table(diagnoses | {"after": diagnoses["before"]}, {})  # of as many pairs of each model
        assert pairs["at_least"][0] == pytest.approx((0.05 / 24) ** (1 / count))  # of Clopper and Pearson for n of n
        assert len(advice(pairs, diagnoses)) == advised, diagnoses["before"].sentence
