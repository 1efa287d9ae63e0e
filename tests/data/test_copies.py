"""Copies of photographs, also encoded again or resized, are found and count once."""

import logging
import os
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robust_vit_hf.data import copies
from robust_vit_hf.data.copies import without_copies
from robust_vit_hf.data.find_images import find_images, write_left_out
from robust_vit_hf.evaluation.sets import own_set
from robust_vit_hf.training.checkpoints import find_checkpoint
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
        save(photograph(seed), root / ("train" if seed < 5 else "test") / "ab"[seed % 2] / f"{seed}.jpg")
    save(photograph(0), root / "train" / "a" / "quality.jpg", quality=40)
    save(photograph(0).resize((100, 75)), root / "train" / "a" / "small.png")
    save(photograph(0).transpose(Image.Transpose.ROTATE_90), root / "train" / "a" / "turned.jpg", orientation=6)
    save(photograph(4), root / "train" / "b" / "4.webp", quality=60)
    save(photograph(5).resize((480, 360)), root / "train" / "b" / "large.jpg", quality=70)
    (root / "train" / "b" / "broken.jpg").write_bytes(b"no image")
    (root / "train" / "b" / "broken too.jpg").write_bytes(b"no image")
    save(Image.new("RGB", (32, 32)), root / "train" / "b" / "black.png")
    save(Image.new("RGB", (32, 32), (3, 3, 3)), root / "train" / "b" / "dark.png")  # too flat to tell
    return root


def test_each_photograph_is_left_once(photos, tmp_path, caplog):
    images = {split: find_images(str(photos), split) for split in ("train", "test")}
    left = without_copies(images, None)
    kept = {split: of.rows.with_format(None)["file_name"][:] for split, of in left.items()}
    others = ["b/black.png", "b/broken too.jpg", "b/broken.jpg", "b/dark.png", "b/large.jpg"]
    assert kept["train"] == ["a/0.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg", *others]
    assert kept["test"] == ["a/6.jpg", "b/7.jpg"]
    contradicting, copied = left["train"].notes
    told = "Left out as copies, which count once: 3 of 14 images"
    assert copied == f"{told}." and contradicting == "Left out as copies with different classes: 2 of 14 images."
    names = (f"`a/{name}` of `train: a/0.jpg`" for name in ("quality.jpg", "small.png", "turned.jpg"))
    warned = [record.getMessage() for record in caplog.records]
    assert f"{told}, {', '.join(names)}." in warned
    assert "Left out as copies with different classes: 2 of 14 images, `a/4.jpg` of `a`, `b/4.webp` of `b`." in warned
    assert warned[-1] == "Left out as copies, which count once: 1 of 3 images, `b/5.jpg` of `train: b/large.jpg`."
    (note,) = without_copies({"train": replace(images["train"], predicted=True)}, None)["train"].notes
    assert note == "Left out as copies, which count once: 4 of 14 images."  # whatever is predicted for them
    left = pickle.loads(pickle.dumps(left))  # as between processes
    for noted in write_left_out([*left.values()], tmp_path):
        assert [*noted.notes] == [f"{note} `left_out.csv` has names and reasons." for note in left[noted.name].notes]
    listed = [*pd.read_csv(tmp_path / "left_out.csv").itertuples(index=False, name=None)]
    assert listed[0] == ("train", "a/4.jpg", "copies with different classes (a)") and len(listed) == 6
    assert listed[-1] == ("test", "b/5.jpg", "copies, which count once (train: b/large.jpg)")


def test_evaluations_and_trainings_count_each_photograph_once(photos, tmp_path, monkeypatch):
    assert own_set(str(photos), "train").dataset["file_name"][:2] == ["a/0.jpg", "a/2.jpg"]
    for split in ("train", "test"):
        names = find_images(str(photos), split).rows["file_name"]
        lines = "".join(f"{name},mask.png,{name[0]}\n" for name in names)
        save(Image.new("L", (8, 8)), photos / split / "mask.png")
        (photos / split / "metadata.csv").write_text("image_file_name,mask_file_name,label\n" + lines)
    data = DataArguments(dataset=str(photos), eval_split="test")
    (run := tmp_path / "run").mkdir()
    train, validation, sets = load_data(data, tiny_vit(num_labels=2).config, 0, folder=run)
    assert len(train) == 14 and [*validation["file_name"]] == ["a/6.jpg", "b/7.jpg"]
    assert [*sets["test"].dataset["file_name"]] == ["a/6.jpg", "b/7.jpg"]
    assert sets["test"].notes == ("Left out as copies, which count once: 1 of 3 images.",)
    # What finds copies at the next start is in the folder of the run, and does not count as a run.
    monkeypatch.setattr(copies, "_thumbnail", lambda image: pytest.fail("decoded again"))
    assert find_checkpoint(str(run), None) is None
    assert [*load_data(data, tiny_vit(num_labels=2).config, 0, folder=run)[1]["file_name"]] == ["a/6.jpg", "b/7.jpg"]


def test_images_are_decoded_once(photos, tmp_path, monkeypatch, caplog):
    images = {"train": find_images(str(photos), "train")}
    first, decoded, read = without_copies(images, tmp_path), [], copies._thumbnail
    monkeypatch.setattr(copies, "_thumbnail", lambda image: decoded.append(image["path"]) or read(image))
    with caplog.at_level(logging.WARNING):
        again = without_copies(images, tmp_path)["train"]
    assert not decoded and "Images are not decoded again" in caplog.text
    assert (again.rows["file_name"], again.notes) == (first["train"].rows["file_name"], first["train"].notes)
    new = [
        "a/small.png",
        "a/twin.bmp",
        "b/twin.bmp",
    ]  # another photograph of a known name, and two of one name, size and time
    for seed, name in enumerate(new, 9):
        save(photograph(seed), photos / "train" / name)
        os.utime(photos / "train" / name, (0, 0))
    kept = without_copies({"train": find_images(str(photos), "train")}, tmp_path)["train"].rows["file_name"]
    assert decoded == [str(photos / "train" / name) for name in new] and {*new} <= {*kept}
