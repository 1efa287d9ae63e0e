"""Copies of photographs count once; near-copies stay, and are told."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robust_vit_hf.data.copies import without_copies
from robust_vit_hf.data.find_images import find_images, write_left_out
from robust_vit_hf.evaluation.sets import own_set
from robust_vit_hf.training.load_data import load_data
from robust_vit_hf.training.options import DataArguments

from ..helpers.layouts import save
from ..helpers.tiny import tiny_vit


pytestmark = pytest.mark.usefixtures("datasets_cache")


def photograph(seed: int) -> Image.Image:
    """Coloured clouds with grain, 240×180 pixels."""
    rng = np.random.default_rng(seed)
    clouds = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((240, 180), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(clouds) + rng.normal(0, 12, (180, 240, 3)), 0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path):
    """Eight photographs in two splits, of which `train` has copies of the first and the sixth, and the fifth is in two classes."""
    root = tmp_path / "photos"
    for seed in range(8):
        save(photograph(seed), root / ("train" if seed < 5 else "test") / "ab"[seed % 2] / f"{seed}.png")
    save(photograph(0), root / "train" / "a" / "again.bmp")
    save(photograph(0).transpose(Image.Transpose.ROTATE_90), root / "train" / "a" / "turned.png", orientation=6)
    save(photograph(0), root / "train" / "a" / "quality.jpg", quality=40)  # a near-copy, which stays
    save(photograph(4), root / "train" / "b" / "4.tif")
    save(photograph(5), root / "train" / "b" / "copy.png")
    save(photograph(6).resize((480, 360)), root / "train" / "a" / "large.jpg", quality=70)
    for name in ("broken", "broken too"):
        (root / "train" / "b" / f"{name}.jpg").write_bytes(b"no image")
    return root


def test_each_photograph_is_left_once(photos, tmp_path, caplog):
    images = {split: find_images(str(photos), split) for split in ("train", "test")}
    left = without_copies(images)
    kept = {split: of.rows.with_format(None)["file_name"][:] for split, of in left.items()}
    assert kept["train"] == [f"a/{name}" for name in ("0.png", "2.png", "large.jpg", "quality.jpg")] + [
        f"b/{name}" for name in ("1.png", "3.png", "broken too.jpg", "broken.jpg", "copy.png")
    ]
    assert kept["test"] == ["a/6.png", "b/7.png"]
    contradicting, copied = left["train"].notes
    told = "Left out as copies, which count once: 2 of 13 images"
    assert copied == f"{told}." and contradicting == "Left out as copies with different classes: 2 of 13 images."
    _, near = left["test"].notes
    assert near == "1 of 2 images of `test` look nearly like images of another split."
    warned = [record.getMessage() for record in caplog.records]
    names = (f"`a/{name}` of `train: a/0.png`" for name in ("again.bmp", "turned.png"))
    assert f"{told}, {', '.join(names)}." in warned
    assert "Left out as copies with different classes: 2 of 13 images, `a/4.png` of `a`, `b/4.tif` of `b`." in warned
    assert "Left out as copies, which count once: 1 of 3 images, `b/5.png` of `train: b/copy.png`." in warned
    (note,) = without_copies({"train": replace(images["train"], predicted=True)})["train"].notes
    assert note == "Left out as copies, which count once: 3 of 13 images."  # whatever is predicted for them
    left = pickle.loads(pickle.dumps(left))  # as between processes
    for noted in write_left_out([*left.values()], tmp_path):
        assert noted.notes[0] == f"{left[noted.name].notes[0]} `left_out.csv` has names and reasons."
    listed = [*pd.read_csv(tmp_path / "left_out.csv").itertuples(index=False, name=None)]
    assert listed[0] == ("train", "a/4.png", "copies with different classes (a)") and len(listed) == 5
    assert listed[-1] == ("test", "b/5.png", "copies, which count once (train: b/copy.png)")


def test_frames_of_a_fixed_camera_stay(tmp_path):
    """They look alike but for a small animal."""
    place = np.asarray(photograph(0)).astype(int)
    for index in range(12):
        frame = place + np.random.default_rng(index).integers(-3, 4, place.shape)
        x = 15 * index
        frame[80:86, x : x + 6] = 30 if index % 2 else 220
        path = tmp_path / ("train" if index < 8 else "validation") / "ab"[index % 2] / f"{index}.png"
        save(Image.fromarray(frame.clip(0, 255).astype(np.uint8)), path)
    left = without_copies({split: find_images(str(tmp_path), split) for split in ("train", "validation")})
    assert [len(of.rows) for of in left.values()] == [8, 4]
    assert left["validation"].notes == ("4 of 4 images of `validation` look nearly like images of another split.",)
    shutil.rmtree(tmp_path / "validation")
    parts = [find_images(str(tmp_path), split, held_out=0.25).rows for split in ("train", "validation")]
    assert [len(rows) for rows in parts] == [6, 2] and {*parts[1]["label"]} == {0, 1}


def test_evaluations_and_trainings_count_each_photograph_once(photos, tmp_path):
    assert own_set(str(photos), "train").dataset["file_name"][:2] == ["a/0.png", "a/2.png"]
    for split in ("train", "test"):
        names = find_images(str(photos), split).rows["file_name"]
        lines = "".join(f"{name},mask.png,{name[0]}\n" for name in names)
        save(Image.new("L", (8, 8)), photos / split / "mask.png")
        (photos / split / "metadata.csv").write_text("image_file_name,mask_file_name,label\n" + lines)
    data = DataArguments(dataset=str(photos), eval_split="test")
    train, validation, sets = load_data(data, tiny_vit(num_labels=2).config, 0)
    assert len(train) == 13 and [*validation["file_name"]] == ["a/6.png", "b/7.png"]
    assert [*sets["test"].dataset["file_name"]] == ["a/6.png", "b/7.png"]
    assert sets["test"].notes[0] == "Left out as copies, which count once: 1 of 3 images."
