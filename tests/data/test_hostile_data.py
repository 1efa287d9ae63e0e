"""Damaged, hostile and unlucky files of datasets and models: one line that names the file and says what to do."""

import os
import pickle

import pytest
import torch

from robust_vit_hf import load_image_set, load_masked_dataset, load_model

from ..helpers import layouts
from ..helpers.tiny import TENCH, masked_folder, masked_rows, tiny_vit
from ..helpers.written import prepare


pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.parametrize("name", ["a[b]", "a*b", "a?b"])
def test_names_that_are_patterns(tmp_path, name):
    """`datasets` would find no file, or for `a?b` those of `a*b` as well."""
    folder = masked_folder(tmp_path / name, 2, 2)
    for path in (folder, folder / "train-00000.parquet"):
        with pytest.raises(ValueError, match=r"has `.` in its name, which `datasets` reads as a pattern: rename"):
            load_masked_dataset(str(path), "train")
    with pytest.raises(ValueError, match="reads as a pattern"):
        load_image_set("imagenet-s919", folder)
    classes = layouts.class_folders(tmp_path / "set", {TENCH: 1})
    with pytest.raises(ValueError, match="reads as a pattern"):
        prepare("imagenet-sketch", [str(classes)], tmp_path / name / "out")
    classes = classes.rename(tmp_path / name / "set")
    photos = layouts.image_folder(tmp_path / name / "photos", masked_rows(2))
    for rows in (load_image_set("imagenet-sketch", classes), load_masked_dataset(str(photos), "train")):
        assert rows[0]["image"].size  # in folders that `datasets` does not search


@pytest.mark.parametrize("outside", ["../../secret.png", "ABSOLUTE", "cat\\\\..\\\\..\\\\..\\\\secret.png"])
def test_metadata_that_points_outside(tmp_path, outside):
    secret = layouts.save(layouts.picture(0), tmp_path / "secret.png")
    root = layouts.image_folder(tmp_path / "photos", masked_rows(2))
    metadata = root / "train" / "metadata.jsonl"
    name = str(secret) if outside == "ABSOLUTE" else outside
    metadata.write_text(metadata.read_text().replace('"1.png"', f'"{name}"'))
    with pytest.raises(ValueError, match=r"photos`: .*secret\.png.*must be a relative path"):
        load_masked_dataset(str(root), "train")


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_pickle_with_code(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    tiny_vit().save_pretrained("model")
    os.remove("model/model.safetensors")
    with open("model/pytorch_model.bin", "wb") as file:
        save({"weights": Code()}, file)
    with pytest.raises(ValueError, match="`model` is not loaded") as refused:
        load_model("model")
    assert "weights_only" not in str(refused.value) and not os.path.exists("ran")
