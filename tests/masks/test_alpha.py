"""Masks from the transparency of images."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from robust_vit_hf.data.find_images import find_images
from robust_vit_hf.masks.alpha import alpha_mask
from robust_vit_hf.masks.choose_mask_maker import MaskSettings

from ..helpers.commands import call, succeed
from ..helpers.layouts import save
from ..helpers.tiny import LETTERS, save_pretrained, tiny_vit


ALPHA = np.zeros((30, 40), dtype=np.uint8)
ALPHA[5:20, 10:30] = 255
ALPHA[20, 10:30], ALPHA[21, 10:30] = 128, 127  # a soft edge
OBJECT = ALPHA >= 128


def cut_out(alpha: np.ndarray = ALPHA, index: int = 0) -> Image.Image:
    colours = np.random.default_rng(index).integers(0, 255, (*alpha.shape, 3), dtype=np.uint8)
    return Image.fromarray(np.dstack([colours, alpha]))


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> dict:
    image.save(content := io.BytesIO(), file_format, **options)
    return {"bytes": content.getvalue(), "path": "any"}


def test_what_is_opaque_is_the_object():
    """Whatever the format and the mode; an image of one of both has no mask."""
    turned = Image.Exif()
    turned[0x0112] = 3  # by 180 degrees
    red, green = (Image.new("RGB", (40, 30), colour) for colour in ("red", "green"))
    in_red = Image.composite(green, red, Image.fromarray(OBJECT))
    palette = in_red.quantize(2)
    images = {
        "png": encoded(cut_out()),
        "webp": encoded(cut_out(), "WEBP", quality=50),
        "grey": encoded(cut_out().convert("LA")),
        "palette": encoded(palette, transparency=palette.getpixel((0, 0))),
        "colour": encoded(in_red, transparency=(255, 0, 0)),
        "turned": encoded(cut_out(ALPHA[::-1, ::-1]), exif=turned),
    }
    for kind, image in images.items():
        assert np.array_equal(np.asarray(alpha_mask(image)), OBJECT * np.uint8(255)), kind
    for image in (in_red, *(cut_out(np.full((8, 8), value, np.uint8)) for value in (0, 255))):
        assert alpha_mask(encoded(image)) is None


def test_cut_outs_are_diagnosed(tmp_path, caplog, monkeypatch):
    """They are larger than the images that are written for other masks, and an opaque one stops the command before anything is written."""
    save_pretrained(tiny_vit(**LETTERS), tmp_path / "model", "paper")
    large = ALPHA.repeat(16, 0).repeat(16, 1)
    for index in range(8):
        save(cut_out(large, index), tmp_path / "photos" / "validation" / "abcd"[index % 4] / f"{index}.png")
    options = ["diagnose", "--model", tmp_path / "model", "--dataset", tmp_path / "photos", "--output_dir"]
    succeed(*options, tmp_path / "out", "--masks", "alpha")
    rows = find_images(str(tmp_path / "out" / "masks"), "train").rows
    assert len(rows) == 8 and rows[0]["image"].size == (640, 480)
    assert np.array_equal(np.asarray(rows[3]["mask"]), np.where(large >= 128, 255, 0))
    assert json.loads((tmp_path / "out" / "results.json").read_text())["masks"] == "made by alpha"
    assert "--masks alpha" not in caplog.text
    with monkeypatch.context() as patched, pytest.raises(TypeError):
        patched.setattr(MaskSettings, "of_features", None)  # `dinov2` makes no masks of these
        call(*options, tmp_path / "others")
    assert caplog.text.count("Images such as `a/0.png` are partly transparent: --masks alpha makes") == 1
    cut_out(large, 9).convert("RGB").save(tmp_path / "photos" / "validation" / "b" / "9.png")
    error = call(*options, tmp_path / "new", "--masks", "alpha").error
    assert error.startswith("error: The transparency of `b/9.png` is not a mask: all pixels are opaque")
    assert not any((tmp_path / "new" / "masks").glob("*.parquet"))
