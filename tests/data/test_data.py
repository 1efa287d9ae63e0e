"""Datasets: the sources that load, what is refused before training, by message, and damaged, hostile and unlucky files."""

import os
import pickle
import re
import shutil

import datasets
import pytest
import torch
from PIL import Image

from robust_vit_hf import load_image_set, load_masked_dataset, load_model
from robust_vit_hf.data.schema import check_columns, check_rows
from robust_vit_hf.data.write_dataset import SplitWriter

from ..helpers import layouts
from ..helpers.layouts import prepare
from ..helpers.tiny import FEATURES, TENCH, WIDE, masked_dataset, masked_folder, masked_rows, tiny_vit


pytestmark = pytest.mark.usefixtures("datasets_cache")


def assert_rows(source, split, rows):
    dataset = load_masked_dataset(str(source), split)
    assert len(dataset) == len(rows)
    for ours, expected in zip(dataset, rows, strict=True):
        assert ours["image"].convert("RGB").tobytes() == expected["image"].tobytes()
        assert ours["mask"].convert("L").tobytes() == expected["mask"].tobytes()
        assert ours["label"] == expected["label"]
    check_columns(dataset, "train")


def test_parquet(tmp_path):
    rows, dataset = masked_rows(5), masked_dataset(5)
    (tmp_path / "table").mkdir()
    for path in (tmp_path / "rows.parquet", tmp_path / "table" / "train-00000.parquet"):
        dataset.to_parquet(path)
    assert_rows(tmp_path / "rows.parquet", "train", rows)
    assert_rows(tmp_path / "table", "train", rows)
    assert_rows(tmp_path / "rows.parquet", "train[:40%]", rows[:2])
    with pytest.raises(ValueError, match='Unknown split "validation"'):
        load_masked_dataset(str(tmp_path / "rows.parquet"), "validation")


def test_save_to_disk(tmp_path):
    rows, dataset = masked_rows(4), masked_dataset(4)
    for name, saved in (("single", dataset), ("splits", datasets.DatasetDict(train=dataset))):
        saved.with_format("torch").save_to_disk(tmp_path / name)  # rows are read without it
        assert_rows(tmp_path / name, "train", rows)
        assert_rows(tmp_path / name, "train[50%:]", rows[2:])
        assert_rows(tmp_path / name, "train[:1]", rows[:1])
        with pytest.raises(ValueError, match='Unknown split "validation"'):
            load_masked_dataset(str(tmp_path / name), "validation")


def test_image_folder(tmp_path):
    assert_rows(layouts.image_folder(tmp_path / "photos", masked_rows(4)), "train", masked_rows(4))


def test_folders_of_one_name_are_not_mixed_up(tmp_path):
    """Two prepared folders of the same name and card, and one that is written again: each gives its own rows."""
    features = datasets.Features(FEATURES | {"file_name": datasets.Value("string")})
    for place, seed in (("first", 0), ("second", 1), ("second", 2)):
        folder, rows = tmp_path / place / "masks", masked_rows(3, seed)
        shutil.rmtree(folder, ignore_errors=True)
        writer = SplitWriter(folder, {}, "train", str(seed), features, title="Masks", text="Noise.")
        encoded = [features.encode_example(row | {"file_name": f"{n}.png"}) for n, row in enumerate(rows)]
        writer.write(encoded)
        writer.finish()
        assert_rows(folder, "train", rows)


def test_missing_folder(tmp_path):
    for path in (str(tmp_path / "photos"), "fotos"):
        with pytest.raises(FileNotFoundError, match=re.escape(path)):
            load_masked_dataset(path, "train")


def test_missing_columns():
    dataset = masked_dataset(2)
    with pytest.raises(ValueError, match=r"train dataset has no column `mask`; it has image, label.*metadata.jsonl"):
        check_columns(dataset.remove_columns("mask"), "train")
    with pytest.raises(ValueError, match="eval dataset has no column `label`"):
        check_columns(dataset.remove_columns("label"), "eval")
    check_columns(dataset.remove_columns("label"), "eval", ("mask",))


def test_columns_of_another_type():
    dataset = datasets.Dataset.from_dict({"image": ["a.png"], "mask": ["b.png"], "label": [0]})
    with pytest.raises(ValueError, match=r"`image` .*datasets.Image\(\)"):
        check_columns(dataset, "train")
    for labels in (["dog", "cat"], [0.0, 1.0]):
        dataset = masked_dataset(2).remove_columns("label").add_column("label", labels)
        with pytest.raises(ValueError, match="integers"):
            check_columns(dataset, "train")


def with_row(**values) -> datasets.Dataset:
    """Two good rows, and one with these values."""
    return datasets.Dataset.from_list([*masked_rows(2), masked_rows(1)[0] | values], features=FEATURES)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"mask": Image.new("L", (20, 40))}, "image is 52×40 but mask is 20×40"),
        ({"image": None}, "image is missing"),
        ({"label": None}, "label is missing"),
    ],
)
def test_row_that_cannot_be_used(values, message):
    with pytest.raises(ValueError, match=rf"1 of 3 rows of the train dataset(.|\n)*row 2 .*: .*{message}"):
        check_rows(with_row(**values), "train", 4)


def test_label_outside_the_classes():
    with pytest.raises(ValueError, match=r"row 3 .*label 3 is outside the model's classes 0–2"):
        check_rows(masked_dataset(4), "train", num_labels=3)
    with pytest.raises(ValueError, match=r"13 of 13 rows(.|\n)*row 9 .*\n  … and 3 more\."):
        check_rows(masked_dataset(4).select(13 * [3]), "train", num_labels=3)


@pytest.mark.parametrize("value, word", [(0, "empty"), (255, "full")])
def test_masks_that_say_nothing(value, word):
    dataset = with_row(mask=Image.new("L", WIDE, value))
    with pytest.raises(ValueError, match=rf"1 of 3 rows(.|\n)*row 2 .*mask is {word}(.|\n)*bad_masks='skip'"):
        check_rows(dataset, "train", 4, bad_masks="refuse")
    usable, left_out = check_rows(dataset, "train", 4, bad_masks="skip")
    assert len(usable) == 2 and left_out == [("row 2", f"mask is {word}")]
    with pytest.raises(ValueError, match="1 of 1 rows"):
        check_rows(dataset.select([2]), "train", 4)


@pytest.mark.parametrize("name", ["a[b]", "a*b", "a?b"])
def test_names_that_are_patterns(tmp_path, name):
    """`datasets` would find no file, or for `a?b` those of `a*b` as well."""
    folder = masked_folder(tmp_path / name, 2, 2)
    for path in (folder, folder / "train-00000.parquet"):
        with pytest.raises(ValueError, match=r"contains `.`, which `datasets` reads as a pattern: rename"):
            load_masked_dataset(str(path), "train")
    with pytest.raises(ValueError, match="reads as a pattern"):
        load_image_set("imagenet-s919", folder)
    classes = layouts.class_folders(tmp_path / "set", {TENCH: 1})
    with pytest.raises(ValueError, match="reads as a pattern"):
        prepare("imagenet-sketch", [str(classes)], tmp_path / name / "out")
    classes = classes.rename(tmp_path / name / "set")
    assert load_image_set("imagenet-sketch", classes)[0]["image"].size  # which `datasets` does not search


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
    with pytest.raises(ValueError, match="`model` was not loaded") as refused:
        load_model("model")
    assert "weights_only" not in str(refused.value) and not os.path.exists("ran")
