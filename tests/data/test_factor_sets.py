"""ObjectNet and SI-Score: several accepted ids, the red border, English folder names and their factors."""

import json

import numpy as np
import pytest
from PIL import Image

from robust_vit_hf import load_image_set
from robust_vit_hf.data.layouts.official import read_mappings

from ..helpers import layouts


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_objectnet_keeps_the_overlap_and_all_accepted_ids(tmp_path):
    root = layouts.objectnet(tmp_path / "objectnet-1.0")
    for source in (root, root / "images", tmp_path):
        rows = list(load_image_set("objectnet", source))
        assert [row["label"] for row in rows] == [[423, 559, 765], [731]]
        assert [row["file_name"].split("/")[-1] for row in rows] == ["chair_0.png", "plunger_0.png"]


def test_objectnet_border(tmp_path):
    root = layouts.objectnet(tmp_path)
    path = root / "images" / "plunger" / "plunger_0.png"
    layouts.save(Image.open(path), path, orientation=6)  # an image that decoding turns
    for streaming in (False, True):
        framed = [np.asarray(row["image"]) for row in load_image_set("objectnet", root, streaming=streaming)]
        cropped = list(load_image_set("objectnet", root, streaming=streaming, cropped=True))
        assert (framed[0][:2] == (255, 0, 0)).all() and (framed[0][:, -2:] == (255, 0, 0)).all()
        assert [row["image"].size for row in cropped] == [(30, 24), (24, 30)]
        for complete, row in zip(framed, cropped, strict=True):
            assert np.array_equal(np.asarray(row["image"]), complete[2:-2, 2:-2])


def test_objectnet_name_of_two_classes(tmp_path):
    root = layouts.objectnet(tmp_path)
    path = root / "mappings" / "objectnet_to_imagenet_1k.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Axe": "crane"}))
    with pytest.raises(ValueError, match="`crane` names 2 classes"):
        load_image_set("objectnet", root)
    path.write_text(json.dumps({"Axe": "hatchet"}))
    with pytest.raises(ValueError, match="`hatchet` names 0 classes"):
        read_mappings(root / "mappings")


def test_objectnet_without_mappings(tmp_path):
    root = layouts.objectnet(tmp_path / "objectnet-1.0")
    (root / "mappings").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"objectnet-1.0/mappings/folder_to_objectnet_label.json"):
        load_image_set("objectnet", root)
    assert len(load_image_set("objectnet", root, mappings=str(tmp_path / "elsewhere"))) == 2
    (tmp_path / "elsewhere" / "imagenet_to_label_2012_v2").unlink()
    with pytest.raises(FileNotFoundError, match="imagenet_to_label_2012_v2"):
        load_image_set("objectnet", root, mappings=str(tmp_path / "elsewhere"))


def test_si_score_passes_by_stray_csvs_and_reads_factors(tmp_path):
    # Ids 8, 9, 10, 11: as strings, "10" comes before "8".
    layouts.si_score(tmp_path / "area", {"kite": 3, "teddy bear": 1})
    rows = list(load_image_set("si-score-size", tmp_path))
    assert [(row["file_name"], row["label"]) for row in rows] == [
        ("area/kite/10.jpg", 21),  # the bird
        ("area/kite/8.jpg", 21),
        ("area/kite/9.jpg", 21),
        ("area/teddy bear/11.jpg", 850),
    ]
    assert [row["x"] for row in rows] == [1.0, 0.8, 0.9, 1.1]
    assert [row["angle"] for row in rows] == [201, 161, 181, 221]
    assert {(row["y"], row["area"]) for row in rows} == {(0.5, 0.2)}
    assert list(load_image_set("si-score-size", tmp_path / "area", streaming=True))[1]["x"] == 0.8


@pytest.mark.parametrize(
    "name, folder",
    [
        ("size", "area"),
        ("rotation", "rotation"),
        ("location", "location20_area02_min0pc"),
        ("location", "object_location"),
    ],
)
def test_si_score_folders(tmp_path, name, folder):
    layouts.si_score(tmp_path / folder, {"koala": 1})
    layouts.si_score(tmp_path / "other", {"wok": 1})
    rows = list(load_image_set(f"si-score-{name}", tmp_path))
    assert [row["label"] for row in rows] == [105]


def test_si_score_without_metadata(tmp_path, caplog):
    layouts.si_score(tmp_path, {"koala": 2}, metadata=False)
    rows = list(load_image_set("si-score-rotation", tmp_path))
    assert [row["angle"] for row in rows] == [None, None]
    assert "no metadata.csv beside the classes" in caplog.text


def test_si_score_images_that_the_metadata_lack_have_no_factors(tmp_path):
    """Not those of a neighbour: their ids are below the first, between two, and above the last of the metadata."""
    layouts.si_score(tmp_path, {"koala": 3})
    path = tmp_path / "metadata.csv"
    path.write_text("".join(line for line in path.open() if not line.startswith("9,")))
    for name in ("5.jpg", "77.jpg"):
        layouts.save(Image.new("RGB", (30, 24)), tmp_path / "koala" / name)
    rows = load_image_set("si-score-location", tmp_path)
    assert [(row["file_name"], row["x"], row["angle"]) for row in rows] == [
        ("koala/10.jpg", 1.0, 201),
        ("koala/5.jpg", None, None),
        ("koala/77.jpg", None, None),
        ("koala/8.jpg", 0.8, 161),
        ("koala/9.jpg", None, None),
    ]
