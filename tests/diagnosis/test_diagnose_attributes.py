"""`robust-vit diagnose --attributes`, from images with a frame to files."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from robust_vit_hf import diagnose
from robust_vit_hf.data.background_edits import ATTRIBUTES, draw_donors
from robust_vit_hf.diagnosis.options import DiagnoseOptions
from robust_vit_hf.evaluation.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import measure
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.results.run_results import read_predictions

from ..helpers.sessions import session_of
from ..helpers.tiny import FEATURES, WIDE, masked_rows, tiny_vit


SIDE, COLOURS = 48, torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])


def framed(row: dict) -> dict:
    """A row with a frame in the colour of its class."""
    pixels = np.asarray(row["image"]).copy()
    inner = pixels[3:-3, 3:-3].copy()
    pixels[:] = (255 * COLOURS[row["label"]]).numpy().astype(np.uint8)
    pixels[3:-3, 3:-3] = inner
    return row | {"image": Image.fromarray(pixels)}


def by_the_frame(images: torch.Tensor) -> torch.Tensor:
    """Logits by the colour of the frame, at half of its width."""
    edges = torch.cat([images[..., 1, :], images[..., -2, :], images[..., :, 1], images[..., :, -2]], dim=-1)
    return -torch.cdist(edges.median(dim=-1).values, COLOURS)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("framed")
    rows = [framed(row) for row in masked_rows(48, size=(SIDE, SIDE))]
    datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(root / "validation-00000.parquet")
    return root


def diagnosed(photographs: Path, folder: Path, **options):
    given = {"classes": list("abcd"), "transform": lambda image: pil_to_tensor(image.resize((SIDE, SIDE))) / 255}
    return diagnose(by_the_frame, str(photographs), output_dir=folder, **given, **options)


@pytest.fixture(scope="module")
def report(photographs, tmp_path_factory):
    return diagnosed(photographs, tmp_path_factory.mktemp("diagnosed") / "out", attributes=["all"], html=True)


def test_the_sentence_names_the_frame(report):
    found = report.attributes["before"]
    assert found.named == ["border"]
    assert report.verdict.splitlines()[1] == found.sentence and "Decides by the border or frame" in str(report)
    gap = found.measures["border"]["gap"]
    assert gap.mean == pytest.approx(1.0) and gap.low > 0.5 and found.measures["border"]["editing"].mean == 0
    assert found.measures["background"]["gap"].mean == 0 == found.measures["sharpness"]["gap"].mean


def test_the_strip_shows_the_frame(report):
    """In the colour of the class of the donor, with the predictions of the rows."""
    rows = read_predictions(report.folder / "predictions.parquet")["validation"]["before"]
    for example in report.edited:
        edge = np.asarray(example.pictures["border_rand"])[1, SIDE // 2]
        assert np.abs(edge - 255 * COLOURS["abcd".index(example.donor)].numpy()).max() < 3
        assert example.predicted["before"]["border_rand"] == example.donor
        assert example.kind("before", "border_rand") == "taken" and example.kind("before", "border_same") == "right"
    assert (rows["border_rand"] == rows["donor_class"]).all()


def test_without_the_option_nothing_differs(report, photographs, tmp_path):
    plain = diagnosed(photographs, tmp_path / "out", html=True)
    assert plain.attributes == {} and not plain.attribute_tables
    results, others = (json.loads((one.folder / "results.json").read_text()) for one in (plain, report))
    assert "attributes" not in results and "attributes" not in results["settings"]
    assert results["diagnosis"] == others["diagnosis"]


def test_images_without_object_background_or_donor_give_no_attributes():
    rows = masked_rows(12)
    rows[2]["mask"], rows[5]["mask"] = Image.new("L", WIDE, 0), Image.new("L", WIDE, 255)
    images = datasets.Dataset.from_list(rows, features=FEATURES)
    session = session_of({"before": tiny_vit()}, {"few": EvaluationSet.of(images)})
    columns = measure(session, Backgrounds(attributes=("border",)))["few"]["before"]
    for kind, donors in zip(("same", "rand"), draw_donors([row["label"] for row in rows]), strict=True):
        given = [donor not in (2, 5) for donor in donors]
        assert [value != -1 for value in columns[f"border_{kind}"]] == given and not all(given)
    of_one = np.array([row["label"] == 0 for row in rows])  # the masks of the other classes are in doubt
    in_doubt = images.add_column("doubt", [None if sure else "small" for sure in of_one])
    session = session.with_sets({"few": EvaluationSet.of(in_doubt)})
    columns = measure(session, Backgrounds(attributes=("border",)))["few"]["before"]
    assert (columns["border_rand"][of_one] == -1).all() and (columns["mixed_rand"][of_one] == -1).all()
    assert (np.isnan(columns["border_rand_margin"]) == of_one).all()


def test_an_edit_belongs_to_the_inputs_of_a_result(monkeypatch):
    own = Backgrounds(attributes=("border",)).inputs()
    monkeypatch.setitem(ATTRIBUTES, "border", ATTRIBUTES["place"])
    assert Backgrounds(attributes=("border",)).inputs()["edits"] != own["edits"]


def test_unknown_attributes_are_refused_before_masks(photographs, tmp_path):
    with pytest.raises(ValueError, match="frame"):
        diagnosed(photographs, tmp_path / "out", attributes=["frame"])
    assert not (tmp_path / "out" / "masks").exists()
    assert DiagnoseOptions(attributes=["border", "all"], output_dir=tmp_path).attributes == ["border", "all"]
