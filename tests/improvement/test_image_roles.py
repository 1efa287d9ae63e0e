"""Training and validation images of `improve`: each has one role, and what cannot tell is rejected."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFile
from pyarrow import parquet as pq

from robust_vit_hf.data.background_edits import draw_donors
from robust_vit_hf.data.dataset_digest import dataset_identity
from robust_vit_hf.data.find_images import find_images
from robust_vit_hf.improvement.images import classes_with_images, images_by_role
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.masks.choose_mask_maker import MaskSettings
from robust_vit_hf.training.trainer import RobustViTTrainer

from ..helpers.commands import call, succeed
from ..helpers.layouts import class_folders, save
from ..helpers.sessions import session_of
from ..helpers.tiny import named, save_pretrained, tiny_vit
from .conftest import NAMES, OBJECT, options_of, with_masks, write_photographs


pytestmark = pytest.mark.usefixtures("datasets_cache", "undrawn")


def test_images_have_one_role(inputs, tmp_path):
    options = [*options_of(inputs, tmp_path / "out"), "--eval_split", "train"]
    assert "Give two different splits" in call("improve", *options).error
    photos = tmp_path / "photos"
    shutil.copytree(inputs / "photos", photos)
    with Image.open(photos / "train" / "dot" / "1.jpg") as picture:
        picture.save(photos / "validation" / "dot" / "saved again.png")
    session = session_of({"before": tiny_vit(**NAMES)}, {})
    (tmp_path / "pool").mkdir()
    shutil.copy(min((photos / "validation" / "dot").iterdir()), tmp_path / "pool" / "0.jpg")
    given = {"dataset": str(photos), "backgrounds": str(tmp_path / "pool")}
    images, _ = images_by_role(session, ImproveOptions(model="m", output_dir="o", **given), [])
    note, of_backgrounds = images["validation"].notes
    assert of_backgrounds.named.endswith("` of `backgrounds: 0.jpg`.")
    assert "1 of 33 images" in note and "`dot/saved again.png` of `train: dot/1.jpg`" in note.named
    assert len(images["validation"].rows) == 31
    options = [*options_of(inputs, tmp_path / "out"), "--backgrounds", inputs / "photos" / "validation"]
    assert "32 images of `validation` are in `backgrounds` too" in call("improve", *options).error


def test_splits_of_other_classes_are_refused_for_a_model_without_names(inputs, tmp_path):
    shutil.copytree(inputs / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "train" / "dot").rename(tmp_path / "photos" / "train" / "star")
    model = save_pretrained(tiny_vit(), tmp_path / "model", "paper")
    options = [*options_of(inputs, tmp_path / "out"), "--model", model, "--dataset", tmp_path / "photos"]
    assert "class 3 is `star` in `train`, `dot` in `validation`" in call("improve", *options).error


ALL_BUT_A_CORNER = np.full((48, 48), 255, np.uint8)
ALL_BUT_A_CORNER[0, 0] = 0  # which is cropped


@pytest.mark.parametrize(
    "drawn, message",
    [
        ({"circle": OBJECT, ".": 0 * OBJECT}, "only images of `circle` are left"),
        ({".": ALL_BUT_A_CORNER}, "could be put on another background"),
    ],
    ids=["one class", "objects that fill the image"],
)
def test_images_that_cannot_tell_are_refused_before_any_training(inputs, tmp_path, monkeypatch, drawn, message):
    monkeypatch.setattr(RobustViTTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    assert message in call("improve", *with_masks(inputs, tmp_path, drawn)).error


def test_images_without_classes(inputs, tmp_path, monkeypatch):
    """Right is what the model predicts for the original image, so no new model is worse on these. No training image
    is a validation image."""
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-1])
    for path in (inputs / "photos").rglob("[0-3].jpg"):
        copy = tmp_path / "photos" / path.relative_to(inputs / "photos").parts[0] / f"{path.parent.name}-{path.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    options = [*options_of(inputs, tmp_path / "out")[:-1], "quick", "--masks", "dinov2"]
    options[3] = tmp_path / "photos"
    printed = succeed("improve", *options)
    assert "the prediction for the original image counts as right" in printed and "significantly worse" not in printed
    assert "% of its predictions are not those of your model." in printed
    diagnosis = json.loads((tmp_path / "out" / "diagnosis" / "results.json").read_text())["diagnosis"]
    assert diagnosis["before"]["measures"]["original"]["mean"] == 1
    parts = []
    for name in ("train", "validation"):
        (file,) = (tmp_path / "out" / "masks" / name).glob("*.parquet")
        parts.append({row["bytes"] for row in pq.read_table(file)["image"].to_pylist()})
    assert [len(part) for part in parts] == [16, 16] and not parts[0] & parts[1]


@pytest.mark.parametrize("command", ["diagnose", "improve"])
def test_a_second_start_decodes_nothing(command, inputs, tmp_path, monkeypatch, caplog):
    """Except the pictures of the report. Masks and predictions are read again."""
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-1])
    for pictures in ("diagnosis.diagnose.composed_images", "evaluation.accuracy.write_before_after"):
        monkeypatch.setattr(f"robust_vit_hf.{pictures}", lambda *_: [])
    for path in (inputs / "photos").glob("*/[bc][ai]r*/[0-3].jpg"):  # of two of four classes
        split, name, number = path.parts[-3:]
        place = f"{name}/{number}" if command == "diagnose" else f"{name}-{number}"
        save(Image.open(path), tmp_path / "photos" / split / place)
    decoded, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda of: decoded.extend([of] * bool(of.tile)) or load(of))
    options = [command, "--model", inputs / "model", "--dataset", tmp_path / "photos"]
    options += ["--output_dir", tmp_path / "out"]
    printed = succeed(*options)
    assert decoded and "not made again" not in caplog.text
    decoded.clear()
    with monkeypatch.context() as patched:
        patched.setattr("robust_vit_hf.data.copies.clusters", lambda rows: 2 * (np.arange(len(rows)),))
        patched.setattr(MaskSettings, "of_features", lambda _: pytest.fail("loaded a model for masks"))
        assert succeed(*options) == printed and not decoded
    assert "Masks of `validation` are not made again" in caplog.text
    assert "was made from other inputs, which differ in: m" in call(*options, "--masks", "tokencut").error


def test_ninety_percent_of_one_class(tmp_path):
    """Of the others, all are drawn, and each gives its background."""
    class_folders(tmp_path / "photos", {"circle": 54, "bar": 3, "cross": 3})
    options = ImproveOptions(model="m", output_dir="o", dataset=str(tmp_path / "photos"), num_images=10, max_steps=1)
    images, _ = images_by_role(session_of({"before": tiny_vit(**NAMES)}, {}), options, [])
    names = {role: np.array(of.rows.features["label"].names)[of.rows["label"][:]] for role, of in images.items()}
    counts = {role: dict(zip(*np.unique(of, return_counts=True), strict=True)) for role, of in names.items()}
    assert counts == {"train": {"bar": 2, "circle": 4, "cross": 2}, "validation": {"bar": 1, "circle": 8, "cross": 1}}
    same, other = draw_donors(images["validation"].rows["label"][:])
    usual = names["validation"] == "circle"
    assert (same[~usual] == -1).all() and (names["validation"][same[usual]] == "circle").all()
    assert {*names["validation"][other[usual]]} == {"bar", "cross"} and (other >= 0).all()


def test_a_thousand_classes_of_two(tmp_path):
    classes, notes = [f"class {number:03d}" for number in range(1000)], []
    for seed, split in enumerate(("train", "validation")):
        class_folders(tmp_path / split, dict.fromkeys(classes, 2), seed=5000 * seed)
    session = session_of({"before": tiny_vit(**named(classes), num_labels=1000)}, {})
    images, _ = images_by_role(session, ImproveOptions(model="m", output_dir="o", dataset=str(tmp_path)), notes)
    assert not notes and np.bincount(images["train"].rows["label"][:]).tolist() == 1000 * [2]
    labels = np.array(images["validation"].rows["label"][:])
    assert len(labels) == 500 and {*np.bincount(labels).tolist()} == {0, 2}
    same, other = draw_donors(labels.tolist())
    assert (labels[same] == labels).all() and (same != np.arange(500)).all() and (labels[other] != labels).all()
    assert classes_with_images(images, session.classes, notes) is None
    assert notes[0].startswith("Of the 500 images of `validation` that are used, none is of: class ")
    assert notes[0].endswith(", and 742 more.")


def test_the_seed_draws_the_images_of_each_role(inputs):
    session, drawn = session_of({"before": tiny_vit(**NAMES)}, {}), []
    for seed in (0, 0, 1):
        options = {"dataset": str(inputs / "photos"), "max_steps": 2, "train_batch_size": 2, "num_images": 2}
        images, _ = images_by_role(session, ImproveOptions(model="m", output_dir="o", seed=seed, **options), [])
        drawn.append({role: dataset_identity(of_role.rows) for role, of_role in images.items()})
        # Also where the steps need fewer images than two of each class.
        assert len({*images["train"].rows["label"]}) == 4
    assert drawn[0] == drawn[1] and all(drawn[0][role] != drawn[2][role] for role in drawn[0])


def test_classes_of_two_images_cannot_be_held_out(tmp_path):
    write_photographs(tmp_path / "photos", "train", 2, seed=0)
    options = ImproveOptions(model="m", dataset=str(tmp_path / "photos"), output_dir="o")
    with pytest.raises(ValueError, match="No class has enough images to hold out 33%"):
        images_by_role(session_of({"before": tiny_vit(**NAMES)}, {}), options, [])


@pytest.mark.parametrize(
    "packed, message",
    [(True, r'^Masks: Unknown split "validation".* --split validation'), (False, "is the mask of images of both")],
)
def test_masks_for_one_of_the_splits_are_refused(packed, message, inputs, tmp_path):
    """The photographs have the split that masks lack, so no training images are held out in its place. Pictures of
    masks would be those of images of both splits, although no image that is drawn shares its mask."""
    given = {"dataset": str(inputs / "photos"), "masks": str(tmp_path / "masks"), "num_images": 2, "max_steps": 1}
    for name in ("bar/0", "bar/6", "bar/7", "cross/0", "cross/6", "cross/7"):
        save(Image.new("L", (48, 48)), tmp_path / "masks" / f"{name}.png")
    if packed:
        rows = find_images(given["dataset"], "train", masks=str(inputs / "masks")).rows
        rows.to_parquet(tmp_path / "masks" / "train-00000.parquet")
    options = ImproveOptions(model="m", output_dir="o", **given)
    with pytest.raises(ValueError, match=message):
        images_by_role(session_of({"before": tiny_vit(**NAMES)}, {}), options, [])
