"""Folders as people have them: class names of each file and split, splits by folder alone, and no image that vanishes."""

import importlib
import json
import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from PIL import Image

from robust_vit_hf import load_masked_dataset
from robust_vit_hf.data.classes import align_labels, label_mapping
from robust_vit_hf.data.find_images import find_images, with_masks_of
from robust_vit_hf.data.image_sets import describe
from robust_vit_hf.data.options import DescribeOptions
from robust_vit_hf.data.schema import undecoded_rows
from robust_vit_hf.evaluation.sets import own_set
from robust_vit_hf.training.load_data import load_data
from robust_vit_hf.training.options import DataArguments
from robust_vit_hf.utils import images
from robust_vit_hf.utils.files import atomic_file

from ..helpers import layouts
from ..helpers.tiny import masked_rows, named, tiny_vit


pytestmark = pytest.mark.usefixtures("datasets_cache")

MODEL = tiny_vit(**named(["cat", "dog", "fox", "hen"])).config


def table(path, names, labels, seed=0):
    """Parquet file with images, masks and labels, numbered in the order of `names`, or plain integers."""
    feature = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "label": feature})
    given = labels if names is None else [names.index(label) for label in labels]
    rows = [row | {"label": label} for row, label in zip(masked_rows(len(given), seed), given, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


def names_of_rows(rows) -> list[str]:
    return [rows.features["label"].int2str(row["label"]) for row in rows]


def both_ways(path, split="train") -> datasets.Dataset:
    """Rows of a split, which are the same as a stream."""
    rows = load_masked_dataset(str(path), split)
    stream = load_masked_dataset(str(path), split, streaming=True)
    assert stream.features == rows.features
    for row, streamed in zip(rows, stream, strict=True):
        assert row["image"].tobytes() == streamed["image"].tobytes()
        assert all(row[name] == streamed[name] for name in row.keys() - {"image", "mask"})
    return rows


def tree(root, *files):
    for seed, name in enumerate(files):
        layouts.save(layouts.picture(seed), root / name)
    return root


def test_splits_number_their_classes(tmp_path):
    table(tmp_path / "data" / "train-0.parquet", ["cat", "dog"], ["dog", "cat", "dog"])
    table(tmp_path / "data" / "validation-0.parquet", ["dog", "cat"], ["cat", "dog", "cat"], seed=1)
    assert names_of_rows(both_ways(tmp_path / "data", "train")) == ["dog", "cat", "dog"]
    assert names_of_rows(both_ways(tmp_path / "data", "validation")) == ["cat", "dog", "cat"]
    accepted = own_set(str(tmp_path / "data"), "validation").for_model("validation", MODEL).accepted
    assert accepted == [[0], [1], [0]]
    with pytest.raises(ValueError, match=r"aligned.*dog"):
        load_masked_dataset(str(tmp_path / "data"), "train[:1]+validation[1:]")
    with pytest.raises(ValueError, match=r"`train\[:1%\]` selects no images of .*3"):
        load_masked_dataset(str(tmp_path / "data"), "train[:1%]")


@pytest.mark.parametrize("names", [["dog", "cat"], None])
def test_files_of_a_split_that_number_their_classes_differently(tmp_path, names):
    """All labels would get the names of the first file."""
    table(tmp_path / "data" / "train-0.parquet", ["cat", "dog"], ["cat"])
    table(tmp_path / "data" / "train-1.parquet", names, [1] if names is None else ["cat"])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"train-0.parquet` and .*train-1.parquet` .* differently"):
            load_masked_dataset(str(tmp_path / "data"), "train", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_training_sees_the_names_of_the_split(tmp_path, streaming):
    table(tmp_path / "data" / "train-0.parquet", ["dog", "cat"], ["cat", "dog"])
    table(tmp_path / "data" / "validation-0.parquet", ["cat", "dog"], ["cat", "dog"], seed=1)
    arguments = DataArguments(dataset=str(tmp_path / "data"), streaming=streaming)
    train, validation, sets = load_data(arguments, MODEL, seed=0)
    assert train.features["label"].names == ["dog", "cat"] and validation.features["label"].names == ["cat", "dog"]
    assert sets["validation"].for_model("validation", MODEL).accepted == [[0], [1]]


def test_class_names_are_no_splits(tmp_path):
    names = ["bullet_train", "test tube", "val"]
    for split, count in (("train", 3), ("validation", 1)):
        layouts.class_folders(tmp_path / "set" / split, dict.fromkeys(names, count))
        rows = both_ways(tmp_path / "set", split)
        assert names_of_rows(rows) == [name for name in names for _ in range(count)]
        assert len(set(rows["file_name"])) == len(rows) == 3 * count
    with pytest.raises(ValueError, match=r'Unknown split "test".*train.*validation.* has no others\.$'):
        load_masked_dataset(str(tmp_path / "set"), "test")


def test_a_root_without_splits_is_train(tmp_path):
    root = layouts.class_folders(tmp_path / "set", {"bullet_train": 2, "test tube": 1, "train": 1})
    assert names_of_rows(both_ways(root)) == ["bullet_train", "bullet_train", "test tube", "train"]
    assert load_masked_dataset(str(root), "train", streaming=True).num_shards == 4  # which workers share


def test_slices_of_sorted_classes_are_refused(tmp_path):
    root = layouts.class_folders(tmp_path / "set", {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match=r"`train\[:50%\]` would leave out whole classes.* --hold_out 0.2 "):
        find_images(str(root), "train[:50%]")
    assert len(find_images(str(root), "train[:100%]").rows) == 4
    lines(
        root / "metadata.jsonl",
        *({"file_name": f"{name}/{name}_{i}.jpg", "label": name} for i in (0, 1) for name in ("dog", "cat")),
    )
    assert names_of_rows(find_images(str(root), "train[:50%]").rows) == ["dog", "cat"]


def test_a_share_of_each_class_is_held_out(tmp_path):
    """By the names of the images, so that other images do not move them; near-copies are on one side."""
    root = layouts.class_folders(tmp_path / "set", {"cat": 10, "dog": 5, "hen": 1}, ".png")
    for name in ("cat_3.png", "again.jpg"):
        layouts.save(layouts.picture(3, (5, 4)).resize((120, 96)), root / "cat" / name)
    with pytest.raises(ValueError, match=r"--hold_out 0\.2 holds out a fifth of the images of each class"):
        find_images(str(root), "validation")
    train, validation = (find_images(str(root), split, held_out=0.4) for split in ("train", "validation"))
    names = [{*of.rows["file_name"]} for of in (train, validation)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 17
    assert any({"cat/cat_3.png", "cat/again.jpg"} <= of for of in names)
    assert sum(name.startswith("dog") for name in names[1]) == 2 and "hen/hen_0.png" not in names[1]
    assert not train.notes and "images of `train`, of every class, were held out" in validation.notes[0]
    data = DataArguments(dataset=str(with_masks(root)), hold_out=0.4)
    fitted, measured, sets = load_data(data, tiny_vit(num_labels=3).config, 0)
    assert [{*of["file_name"]} for of in (fitted, measured)] == names and sets["validation"].notes
    for name in names[1]:
        (root / name).rename(root / "cat" / f"moved {Path(name).name}")
    with pytest.raises(ValueError, match="No class has enough images to hold out 1%"):
        find_images(str(root), "validation", held_out=0.01)


def with_masks(root: Path) -> Path:
    names = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*"))]
    layouts.save(Image.new("L", (30, 24)), root / "mask.png")
    labels = [["cat", "dog", "hen"].index(name[:3]) for name in names]
    rows = [
        {"image_file_name": name, "mask_file_name": "mask.png", "label": label}
        for name, label in zip(names, labels, strict=True)
    ]
    lines(root / "metadata.jsonl", *rows)
    return root


@pytest.mark.parametrize("folder, split", [("Training", "train"), ("dev", "validation"), ("testing", "test")])
def test_other_names_of_splits(tmp_path, folder, split):
    other = "val/cat/1.png" if split != "validation" else "test/dog/1.png"
    assert both_ways(tree(tmp_path / "set", f"{folder}/cat/0.png", other), split)["file_name"] == ["cat/0.png"]


def test_two_folders_of_one_split(tmp_path):
    root = tree(tmp_path / "set", "val/cat/0.png", "valid/dog/1.png")
    assert names_of_rows(both_ways(root, "validation")) == ["cat", "dog"]


def left_out(root, caplog, split="train") -> str:
    """The warning about what is left out."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        (note,) = find_images(str(root), split).notes
    assert note.named in [record.getMessage() for record in caplog.records]
    return note.named


def test_one_image_nested_deeper_keeps_the_labels(tmp_path, caplog):
    root = tree(tmp_path / "set", "train/cat/0.png", "train/cat/old/1.png", "train/dog/2.png", "train/3.png")
    assert names_of_rows(both_ways(root)) == ["cat", "dog"]
    assert (
        "2 images: 1 in no class folder, 1 deeper than class folders (`train/3.png`, `train/cat/old/1.png`)"
        in left_out(root, caplog)
    )


def test_images_beside_the_splits(tmp_path, caplog):
    root = tree(tmp_path / "set", "train/cat/0.png", "extra/cat/1.png", "validation/cat/2.png")
    assert "1 image: 1 outside the folders of splits (`extra/cat/1.png`)" in left_out(root, caplog)
    assert not find_images(str(root), "validation").notes  # told once


def test_accents_of_macos(tmp_path):
    """A class whose folder has its accent as a character of its own (NFD) is the one of the model."""
    tree(tmp_path, "train/e\u0301te\u0301/0.png", "train/été/1.png", "train/hiver/0.png")
    assert sorted(names_of_rows(both_ways(tmp_path))) == ["hiver", "été", "été"]
    assert label_mapping(["e\u0301te\u0301", "hiver"], ["hiver", "été"], "photos") == {0: 1, 1: 0}


def test_a_file_that_a_kill_left_unfinished_is_no_part_of_a_split(tmp_path):
    table(tmp_path / "train-00000.parquet", ["cat"], ["cat", "cat"])
    with atomic_file(tmp_path / "train-00001.parquet") as partial:
        shutil.copy(tmp_path / "train-00000.parquet", partial)
        assert len(load_masked_dataset(str(tmp_path), "train")) == 2
    assert len(load_masked_dataset(str(tmp_path), "train")) == 4


def without_heif(monkeypatch):
    Image.init()
    for suffix in (".heic", ".heif", ".hif"):
        monkeypatch.delitem(Image.EXTENSION, suffix, raising=False)


def test_heic_is_counted_and_named(tmp_path, caplog, monkeypatch):
    without_heif(monkeypatch)
    root = tree(tmp_path / "set", "cat/0.png", "dog/1.png")
    for number in range(7):
        (root / "dog" / f"{number}.HEIC").write_bytes(b"heic")
    for name in ("notes.txt", "film.mpg", "features.h5"):  # of the last two, Pillow knows the names alone
        (root / "dog" / name).write_text("no image")
    assert len(load_masked_dataset(str(root), "train")) == 2
    message = left_out(root, caplog)
    assert "7 images" in message and "`dog/0.HEIC`" in message and "pip install pillow-heif" in message
    assert "notes.txt" not in message and "`dog/6.HEIC`" not in message


def test_heic_is_read_if_pillow_heif_is_there(tmp_path, monkeypatch):
    without_heif(monkeypatch)
    opener = SimpleNamespace(register_heif_opener=lambda: Image.register_extension("PNG", ".heic"))
    monkeypatch.setitem(sys.modules, "pillow_heif", opener)
    importlib.reload(images)
    root = tree(tmp_path / "set", "cat/0.png")
    shutil.copy(root / "cat" / "0.png", root / "cat" / "1.heic")
    assert both_ways(root)["file_name"] == ["cat/0.png", "cat/1.heic"]


def test_names_that_cameras_give(tmp_path, caplog):
    """A hidden image is counted by name, and a link must lead somewhere."""
    root = tree(
        tmp_path / "set", "train/cat/a.png", "train/cat/.hidden.jpg", "train/__fish__/0.png", "train/dog/1.png"
    )
    (root / "train" / "cat" / "a.png").rename(root / "train" / "cat" / "IMG.MPO")
    (root / "train" / "cat" / "._IMG.jpg").write_bytes(b"resources of macOS")
    rows = both_ways(root)
    assert rows["file_name"] == ["cat/IMG.MPO", "dog/1.png"]
    assert "2 images: 2 hidden, since a name begins with `.` or `__`" in left_out(root, caplog)
    files = find_images(str(root), "train").notes[0].files
    assert [name for _, name, _ in files] == ["train/__fish__/0.png", "train/cat/.hidden.jpg"]
    for level, name in enumerate(("1.png", "IMG.png")):
        layouts.save(Image.new("L", (30, 24), level), tmp_path / "masks" / ("dog" if level == 0 else "cat") / name)
    found = with_masks_of(rows.select([1, 0]), tmp_path / "masks", "train")
    assert [(row["file_name"], row["mask"].getpixel((0, 0))) for row in found] == [
        ("dog/1.png", 0),
        ("cat/IMG.MPO", 1),
    ]
    (root / "train" / "hen").symlink_to(tmp_path / "disk")
    with pytest.raises(FileNotFoundError, match=r"`.*train/hen` is a link to `.*disk`, which does not exist"):
        load_masked_dataset(str(root), "train")
    (root / "train" / "hen").unlink()
    tree(tmp_path / "disk", "2.png")
    (root / "train" / "hen").symlink_to(tmp_path / "disk")
    assert "hen/2.png" in load_masked_dataset(str(root), "train")["file_name"]


def test_a_class_folder_that_may_not_be_read(tmp_path, monkeypatch):
    root, listed = tree(tmp_path / "set", "cat/0.png", "dog/1.png"), Path.iterdir

    def without_rights(path):  # root, which tests may run as, has all rights
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", without_rights)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*set/dog'"):
        load_masked_dataset(str(root), "train")


def test_an_empty_class_folder_does_not_shift_the_numbers(tmp_path):
    """Of a model that has only numbers; one with names needs none for a folder without images."""
    root = tree(tmp_path / "set", *(f"{name}/0.png" for name in "acd"))
    (root / "b").mkdir()
    images = own_set(str(root), "train")
    assert images.for_model("train", tiny_vit(num_labels=4).config).labels.tolist() == [0, 2, 3]
    (root / "e").mkdir()
    images = own_set(str(root), "train")
    with pytest.raises(ValueError, match=r"has 5 classes, .* the model does not have"):
        images.for_model("train", tiny_vit(num_labels=4).config)
    model = tiny_vit(**named(["d", "c", "a", "x"])).config
    assert images.for_model("train", model).labels.tolist() == [2, 1, 0]
    assert align_labels(load_masked_dataset(str(root), "train"), ["d", "c", "a", "x"], "set")["label"] == [2, 1, 0]


def test_images_without_a_line(tmp_path, caplog):
    root = layouts.image_folder(tmp_path / "photos", masked_rows(4))
    metadata = root / "train" / "metadata.jsonl"
    metadata.write_text("\n".join(metadata.read_text().splitlines()[:3]))
    assert both_ways(root)["label"] == [2, 0, 1]
    assert "2 without a line of metadata (`train/3.png`, `train/3_mask.png`)" in left_out(root, caplog)


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def test_metadata_at_the_root(tmp_path):
    root = tree(tmp_path / "set", "train/cat/0.png", "validation/cat/0.png", "validation/1.png")
    rows = [{"file_name": name, "label": label} for label, name in enumerate(["train/cat/0.png", "validation/1.png"])]
    lines(root / "metadata.jsonl", *rows)
    found = both_ways(root)
    assert found["file_name"] == ["cat/0.png"] and found["label"] == [0]
    assert both_ways(root, "validation")["label"] == [1]


def test_names_as_labels_and_a_table(tmp_path):
    root = tree(tmp_path / "set", "0.png", "1.png")
    lines(root / "metadata.jsonl", {"file_name": "1.png", "label": "dog"}, {"file_name": "0.png", "label": "cat"})
    assert names_of_rows(both_ways(root)) == ["dog", "cat"]
    (root / "metadata.jsonl").unlink()
    (root / "metadata.csv").write_text("file_name,label\n1.png,3\n0.png,2\n")
    assert both_ways(root)["label"] == [3, 2]
    (root / "metadata.csv").unlink()
    columns = {"file_name": ["1.png", "0.png"], "label": [4, 5]}
    datasets.Dataset.from_dict(columns).to_parquet(root / "metadata.parquet")
    assert both_ways(root)["label"] == [4, 5]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("metadata.jsonl", '{"file_name": "0.png"\n', "set` cannot be read: JSON parse error"),
        ("metadata.jsonl", '{"label": 1}\n', "`file_name`"),
        ("metadata.jsonl", '{"file_name": "0.png", "label": 1}\n{"file_name": "0.png", "label": "a"}\n', "label"),
        ("metadata.jsonl", '{"file_name": "../secret.png"}\n', "cannot be read: Invalid metadata file_name"),
        ("metadata.jsonl", '{"file_name": "0.png", "image": "../secret.png"}\n', "Column `image` .* cast it"),
        ("metadata.csv", "file_name;label\n0.png;Bär\n", "set` cannot be read: `file_name`"),
        ("metadata.csv", "file_name,label\n0.png,Bär\n".encode("latin-1"), "set` cannot be read: 'utf-8' codec"),
    ],
)
def test_metadata_that_is_refused(tmp_path, name, content, message):
    root = tree(tmp_path / "set", "0.png")
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load_masked_dataset(str(root), "train")


def test_class_folders_are_labels_beside_metadata_of_other_columns(tmp_path):
    root = tree(tmp_path / "set", "train/cat/0.png", "train/dog/0.png", "train/dog/1.png")
    (root / "train" / "metadata.csv").write_text("file_name,site\ndog/1.png,lake\ncat/0.png,wood\ndog/0.png,\n")
    rows = load_masked_dataset(str(root), "train")
    assert names_of_rows(rows) == ["dog", "cat", "dog"] and rows["site"] == ["lake", "wood", None]
    (root / "train" / "metadata.csv").write_text("file_name,label\ndog/1.png,a\ncat/0.png,b\ndog/0.png,b\n")
    assert names_of_rows(load_masked_dataset(str(root), "train")) == ["a", "b", "b"]


def test_file_names_keep_the_class_folder(tmp_path):
    root = tree(tmp_path / "set", "train/cat/000.png", "train/dog/000.png")
    rows = load_masked_dataset(str(root), "train")
    assert [row["file_name"] for row in undecoded_rows(rows)] == ["cat/000.png", "dog/000.png"]
    assert own_set(str(root), "train").dataset["file_name"] == ["cat/000.png", "dog/000.png"]
    (root / "train" / "dog" / "000.png").write_bytes(b"torn")
    out = describe(DescribeOptions(source=str(root)))
    assert "1 of them unusable" in out and "dog/000.png` cannot be decoded" in out
    with pytest.raises(ValueError, match="rename that of your images"):
        next(undecoded_rows(rows.add_column("problem", ["torn"] * 2)))


def test_a_folder_of_masks_for_images_without_names(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [masked_rows(1)[0]["image"]]})
    with pytest.raises(ValueError, match="are found by the column `file_name`, which the images do not have"):
        with_masks_of(rows, tmp_path, "train")
