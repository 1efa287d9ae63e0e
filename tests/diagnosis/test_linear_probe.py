"""`robust-vit diagnose` without a model: a classifier that is fitted to the photographs stands in for it."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robust_vit_hf import diagnose
from robust_vit_hf.diagnosis import linear_probe
from robust_vit_hf.diagnosis.diagnose import measure_backgrounds
from robust_vit_hf.diagnosis.linear_probe import CrossValidatedProbe, LinearProbe, fit_probe
from robust_vit_hf.diagnosis.options import DiagnoseOptions
from robust_vit_hf.diagnosis.verdict import Diagnosis
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.models.model_names import BUNDLED_MODEL
from robust_vit_hf.utils.privacy import public_name

from ..helpers.sessions import session_of
from ..helpers.tiny import FEATURES, IMAGE_SIZE, LETTERS, masked_rows, tiny_vit


COLOURS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [220, 220, 30]])


def photographs(of_backgrounds: bool) -> datasets.Dataset:
    """Images whose background has the colour of the class, and whose object any colour; or the other way round."""
    rng, rows = np.random.default_rng(0), masked_rows(80, size=(IMAGE_SIZE, IMAGE_SIZE))
    for row in rows:
        own, other = COLOURS[row["label"]], COLOURS[rng.integers(4)]
        object_colour, background = (other, own) if of_backgrounds else (own, other)
        pixels = np.where(np.asarray(row["mask"])[..., None] > 0, object_colour, background)
        row["image"] = Image.fromarray((pixels + rng.integers(0, 30, pixels.shape)).astype(np.uint8))
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.mark.parametrize(
    ("of_backgrounds", "likely", "verdict"), [(True, "decides", "decides"), (False, "too few", "no sign")]
)
def test_backgrounds_tell_the_class_or_do_not(of_backgrounds, likely, verdict, monkeypatch):
    counts = []
    monkeypatch.setattr(linear_probe, "fit_probe", lambda *given: counts.append(len(given[1])) or fit_probe(*given))
    session = session_of({"before": tiny_vit()}, {"photographs": EvaluationSet.of(photographs(of_backgrounds))})
    session = replace(session, sides={"before": LinearProbe(**vars(session.sides["before"]))})
    found = measure_backgrounds(session)["before"]
    told, excess = found.measures["background"], found.measures["background_excess"]
    assert (found.likely, found.verdict) == (likely, verdict)
    if of_backgrounds:
        assert told.mean == 1 and excess.mean == pytest.approx(0.72, abs=0.05)  # three eighths are of one class
        assert "tells the class for 100 %" in found.sentence and "is likely to use it" in found.sentence
        assert [row[2] for row in found.told_table().rows] == ["–"] * 4
        assert found.measures["donor_rate"].mean > 0.9
        half = found.columns.assign(mixed_rand=[*40 * [-1], *found.columns["mixed_rand"][40:]])  # without a donor
        assert "for 100 % [96, 100] of 80 photographs" in replace(found, columns=half).sentence
    else:
        assert excess.low < 0 < excess.high and found.measures["bg_gap"].low < 0.05
    fold, label, background = (np.array(found.columns[name]) for name in ("fold", "label", "background"))
    for kind, same in (("donor_same", True), ("donor_rand", False)):
        donors = np.array(found.columns[kind])
        assert (fold[donors] == fold).all() and ((label[donors] == label) == same).all()
    assert {*fold} == {0, 1, 2, 3, 4} and (background >= 0).all()
    assert sum(counts) == 2 * 4 * 80  # each image is left out of one fold, for images and for backgrounds


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_each_fold_has_both_classes_if_one_is_rare(count):
    rows = photographs(True)
    labels = np.array(rows["label"])
    rows = rows.select([*np.flatnonzero(labels == 0)[:30], *np.flatnonzero(labels == 1)[:count]])
    session = session_of({"before": tiny_vit()}, {"photographs": EvaluationSet.of(rows)})
    session = replace(session, sides={"before": LinearProbe(**vars(session.sides["before"]))})
    if count < 2:
        with pytest.raises(ValueError, match="Fewer than two classes have two images"):
            measure_backgrounds(session)
        return
    found = pd.DataFrame(measure_backgrounds(session)["before"].columns)
    assert found.groupby("fold")["label"].value_counts().tolist() == [15, count // 2] * 2
    assert ((found["donor_same"] >= 0) == ((found["label"] == 0) | (count == 4))).all()


def test_the_layer_is_the_ridge_regression(monkeypatch):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(3, 2, (30, 5)).astype(np.float32), np.arange(30) % 3
    monkeypatch.setattr(linear_probe, "PENALTIES", np.array([0.1]))
    weight, bias = fit_probe(features, labels, 4)
    inputs, targets = (features - features.mean(axis=0)) / features.std(axis=0), np.eye(4)[labels]
    ridge = np.linalg.solve(inputs.T @ inputs + 0.1 * 30 * 5 * np.eye(5), inputs.T @ (targets - targets.mean(axis=0)))
    outputs = features @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(outputs, inputs @ ridge + targets.mean(axis=0), atol=1e-4)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Photographs, for which a tiny model is DINOv2-S."""
    photographs(True).to_parquet(tmp_path / "photographs" / "train-00000.parquet")
    monkeypatch.setattr(
        linear_probe, "backbone_of", lambda name: tiny_vit(**LETTERS) if name == BUNDLED_MODEL else None
    )
    monkeypatch.setattr(linear_probe, "IMAGE_SIZE", IMAGE_SIZE)
    return tmp_path


def test_diagnose_without_a_model(folder, monkeypatch):
    options = {"dataset": str(folder / "photographs"), "output_dir": folder / "out", "html": True}
    report = diagnose(attributes=["border", "colours"], **options)
    first, second = report.verdict.splitlines()
    assert first.startswith("The background alone tells the class for 100 %")
    assert second.startswith("Decides by the colour cast")
    record = json.loads((folder / "out" / "results.json").read_text())["diagnosis"]["before"]
    assert record["measures"]["background"]["mean"] == 1 and record["photographs"] == "decides"
    images = pd.read_csv(folder / "out" / "images.csv")
    assert (images["before_background"] == images["label"]).all()
    assert "told by its background" in (folder / "out" / "tables.md").read_text()
    assert "Do the photographs invite a shortcut?" in (folder / "out" / "report.html").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(Diagnosis, "verdict", "partly")  # of the classifier; the first sentence is on the photographs
        assert report.fails("decides")
    monkeypatch.setattr(CrossValidatedProbe, "measure", lambda *_: pytest.fail("measured again"))
    assert diagnose(attributes=["border", "colours"], **options).verdict == report.verdict


def test_what_needs_a_model(folder, monkeypatch):
    assert DiagnoseOptions(output_dir=folder).model == DiagnoseOptions(dataset=BUNDLED_MODEL).model == BUNDLED_MODEL
    assert DiagnoseOptions(dataset="photographs").split == "train"
    with pytest.raises(ValueError, match="--compare cannot be used without --model"):
        DiagnoseOptions(dataset="photographs", compare="better")
    assert all(public_name(name) == name for name in linear_probe.DINOV2_SMALL.values())  # no part of a path
    monkeypatch.setattr(linear_probe, "DINOV2_SMALL", {})
    with pytest.raises(OSError, match=r"install it \(.*pip install .*\), or name a model"):
        diagnose(dataset=str(folder / "photographs"), output_dir=folder / "out")
