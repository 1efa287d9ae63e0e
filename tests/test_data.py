"""Datasets: the sources that load, and what is refused before training, by message."""

import json
import shutil

import datasets
import pytest
from PIL import Image

from robust_vit_hf import load_masked_dataset
from robust_vit_hf.data import check_columns, check_rows
from robust_vit_hf.data.shards import ShardWriter

from .conftest import FEATURES, masked_dataset, masked_rows


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_image_folder(folder, rows, split="train"):
    (folder / split).mkdir(parents=True)
    lines = []
    for index, row in enumerate(rows):
        row["image"].save(folder / split / f"{index}.png")
        row["mask"].save(folder / split / f"{index}_mask.png")
        names = {"image_file_name": f"{index}.png", "mask_file_name": f"{index}_mask.png"}
        lines.append(json.dumps(names | {"label": row["label"]}))
    (folder / split / "metadata.jsonl").write_text("\n".join(lines))


def rows_equal(dataset, rows):
    assert len(dataset) == len(rows)
    for ours, expected in zip(dataset, rows, strict=True):
        assert ours["image"].convert("RGB").tobytes() == expected["image"].tobytes()
        assert ours["mask"].convert("L").tobytes() == expected["mask"].tobytes()
        assert ours["label"] == expected["label"]
    check_columns(dataset, "train", needs_labels=True)


def test_parquet(tmp_path):
    rows = masked_rows(5)
    (tmp_path / "table").mkdir()
    dataset = masked_dataset(5)
    dataset.to_parquet(tmp_path / "rows.parquet")
    dataset.to_parquet(tmp_path / "table" / "train-00000.parquet")
    rows_equal(load_masked_dataset(str(tmp_path / "rows.parquet"), "train"), rows)
    rows_equal(load_masked_dataset(str(tmp_path / "table"), "train"), rows)
    rows_equal(load_masked_dataset(str(tmp_path / "rows.parquet"), "train[:40%]"), rows[:2])
    with pytest.raises(ValueError, match='Unknown split "validation"'):
        load_masked_dataset(str(tmp_path / "rows.parquet"), "validation")


def test_save_to_disk(tmp_path):
    rows = masked_rows(4)
    masked_dataset(4).save_to_disk(tmp_path / "single")
    datasets.DatasetDict(train=masked_dataset(4)).save_to_disk(tmp_path / "splits")
    rows_equal(load_masked_dataset(str(tmp_path / "single"), "train"), rows)
    rows_equal(load_masked_dataset(str(tmp_path / "splits"), "train"), rows)
    rows_equal(load_masked_dataset(str(tmp_path / "single"), "train[50%:]"), rows[2:])
    rows_equal(load_masked_dataset(str(tmp_path / "splits"), "train[:1]"), rows[:1])
    for name in ("single", "splits"):
        with pytest.raises(ValueError, match='Unknown split "validation"'):
            load_masked_dataset(str(tmp_path / name), "validation")


def test_image_folder(tmp_path):
    rows = masked_rows(4)
    write_image_folder(tmp_path / "photos", rows)
    rows_equal(load_masked_dataset(str(tmp_path / "photos"), "train"), rows)


def test_folders_of_one_name_are_not_mixed_up(tmp_path):
    """Two prepared folders of the same name and card, and one that is written again: each gives its own rows."""
    features = datasets.Features(FEATURES | {"file_name": datasets.Value("string")})

    def prepare(folder, seed):
        writer = ShardWriter(folder, "train", features, {"method": "coco"}, title="Masks", text="Noise.")
        rows = [row | {"file_name": f"{index}.png"} for index, row in enumerate(masked_rows(3, seed))]
        writer.write([features.encode_example(row) for row in rows])
        writer.finish()
        return masked_rows(3, seed)

    for folder, seed in ((tmp_path / "first" / "masks", 0), (tmp_path / "second" / "masks", 1)):
        rows = prepare(folder, seed)
        rows_equal(load_masked_dataset(str(folder), "train"), rows)
    shutil.rmtree(folder)
    rows = prepare(folder, seed=2)
    rows_equal(load_masked_dataset(str(folder), "train"), rows)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file or folder `.*photos`, and no dataset of that id"):
        load_masked_dataset(str(tmp_path / "photos"), "train")
    with pytest.raises(FileNotFoundError, match=r"There is no file or folder `fotos`"):
        load_masked_dataset("fotos", "train")


def test_missing_columns():
    dataset = masked_dataset(2)
    with pytest.raises(ValueError, match=r"train dataset has no column `mask`; it has image, label.*metadata.jsonl"):
        check_columns(dataset.remove_columns("mask"), "train", needs_labels=True)
    with pytest.raises(ValueError, match=r"eval dataset has no column `label`.*relevance_target='prediction'"):
        check_columns(dataset.remove_columns("label"), "eval", needs_labels=True)
    check_columns(dataset.remove_columns("label"), "eval", needs_labels=False)


def test_column_of_another_type():
    dataset = datasets.Dataset.from_dict({"image": ["a.png"], "mask": ["b.png"], "label": [0]})
    with pytest.raises(ValueError, match=r"Column `image` of the train dataset is .*expected `datasets.Image\(\)`"):
        check_columns(dataset, "train", needs_labels=True)


def test_labels_that_are_no_integers():
    for values in (["dog", "cat"], [0.0, 1.0]):
        dataset = masked_dataset(2).remove_columns("label").add_column("label", values)
        with pytest.raises(ValueError, match=r"Column `label` of the train dataset is .*expected integers"):
            check_columns(dataset, "train", needs_labels=True)


def with_row(row, features=FEATURES):
    return datasets.Dataset.from_list([*masked_rows(2), row], features=features)


def test_good_rows_stay():
    dataset = masked_dataset(3)
    assert check_rows(dataset, "train", num_labels=4) is dataset


def test_sizes_differ():
    row = masked_rows(1)[0] | {"mask": Image.new("L", (20, 40))}
    with pytest.raises(
        ValueError, match=r"1 of 3 rows of the train dataset(.|\n)*row 2 .*image is 40×40 but mask is 20×40"
    ):
        check_rows(with_row(row), "train", 4)


def test_label_outside_the_classes():
    with pytest.raises(ValueError, match=r"row 3 .*label 3 is outside the model's classes 0–2"):
        check_rows(masked_dataset(4), "train", num_labels=3)


def test_mask_with_colours_or_class_ids():
    row = masked_rows(1)[0]
    with pytest.raises(ValueError, match="mask has mode RGB, expected one channel"):
        check_rows(with_row(row | {"mask": row["image"]}), "train", 4)
    ids = Image.new("L", (40, 40))
    ids.paste(255, (5, 5, 20, 20))  # a border of 255 around an object of class 17, as in VOC
    ids.paste(17, (6, 6, 19, 19))
    with pytest.raises(ValueError, match="usual value of the mask's foreground is 17, expected 1 or 255"):
        check_rows(with_row(row | {"mask": ids}), "train", 4)


@pytest.mark.parametrize("column", ["image", "mask", "label"])
def test_missing_values(column):
    with pytest.raises(ValueError, match=rf"row 2 .*: {column} is missing"):
        check_rows(with_row(masked_rows(1)[0] | {column: None}), "train", 4)


@pytest.mark.parametrize("value, word", [(0, "empty"), (255, "full")])
def test_masks_that_say_nothing(value, word, caplog):
    dataset = with_row(masked_rows(1)[0] | {"mask": Image.new("L", (40, 40), value)})
    with pytest.raises(ValueError, match=rf"1 of 3 masks(.|\n)*row 2 .*mask is {word}(.|\n)*bad_masks='skip'"):
        check_rows(dataset, "train", 4, bad_masks="refuse")
    assert len(check_rows(dataset, "train", 4, bad_masks="skip")) == 2
    with pytest.raises(ValueError, match="no row with a usable mask"):
        check_rows(dataset.select([2]), "train", 4)


def test_corrupt_image_names_its_file(tmp_path):
    write_image_folder(tmp_path / "photos", masked_rows(3))
    broken = tmp_path / "photos" / "train" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    dataset = load_masked_dataset(str(tmp_path / "photos"), "train")
    with pytest.raises(ValueError, match=r"row 1 \(.*1\.png\): image cannot be decoded"):
        check_rows(dataset, "train", 4)


def test_many_problems_are_counted():
    with pytest.raises(ValueError, match=r"18 of 20 rows(.|\n)*and 8 more"):
        check_rows(
            masked_dataset(20)
            .add_column("old", [0] * 20)
            .map(lambda row, i: {"label": 3 if i > 1 else 0}, with_indices=True),
            "train",
            3,
        )
