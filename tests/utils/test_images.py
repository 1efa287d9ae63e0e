"""Images of every mode, in RGB by one rule: in training, evaluation, masks and `pipeline("relevance-map")`."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from robust_vit_hf import eval_transform, train_transform
from robust_vit_hf.data.schema import check_rows
from robust_vit_hf.data.transforms import segmentation_transform
from robust_vit_hf.masks.tokencut import TokenCut
from robust_vit_hf.utils.images import encode_image, save_picture_grid, to_rgb

from ..helpers.layouts import half_masks, masks_by
from ..helpers.tiny import FEATURES, masked_rows, tiny_vit


pytestmark = pytest.mark.usefixtures("datasets_cache")

RAMP = np.linspace(0, 65535, 40 * 40).round().astype(np.uint16).reshape(40, 40)
GREY = (RAMP / 257).round().astype(np.uint8)


def stored(image: Image.Image, file_format: str, **options) -> Image.Image:
    """The image as a file of this format gives it back."""
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return Image.open(content)


@pytest.mark.parametrize("file_format, big_endian", [("PNG", False), ("TIFF", False), ("TIFF", True)])
def test_16_bit_grey_is_scaled_by_its_full_range(file_format, big_endian):
    image = Image.fromarray(RAMP)
    if big_endian:
        image = Image.frombytes("I;16B", image.size, RAMP.astype(">u2").tobytes())
    image = stored(image, file_format)
    assert image.mode == ("I;16B" if big_endian else "I;16")
    assert np.array_equal(np.asarray(to_rgb(image)), np.stack([GREY] * 3, axis=-1))


def test_other_modes_are_those_of_pillow():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    transparent = stored(palette, "PNG", transparency=1)
    frames = [Image.new("RGB", (2, 1), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    expected = {
        "CMYK": (Image.new("CMYK", (2, 1), (0, 255, 255, 0)), [(255, 0, 0)] * 2),
        "P with transparency": (transparent, [(10, 20, 30), (40, 50, 60)]),
        "RGBA": (Image.new("RGBA", (2, 1), (1, 2, 3, 0)), [(1, 2, 3)] * 2),
        "GIF": (stored(frames[0], "GIF", save_all=True, append_images=frames[1:]), [(255, 0, 0)] * 2),
    }
    for name, (image, pixels) in expected.items():
        converted = to_rgb(image)
        assert converted.tobytes() == image.convert("RGB").tobytes(), name
        assert list(converted.get_flattened_data()) == pixels, name


def test_all_transforms_scale_16_bit(processor):
    rows = {"mask": [masked_rows(1, size=(40, 40))[0]["mask"]]}
    for transform in (train_transform, eval_transform, segmentation_transform):
        pixels = []
        for image in (Image.fromarray(RAMP), Image.fromarray(GREY).convert("RGB")):
            torch.manual_seed(0)
            pixels.append(transform(processor)(rows | {"image": [image]})["pixel_values"][0])
        assert torch.equal(*pixels) and pixels[0].std() > 0.1


@pytest.mark.parametrize("mode, kind", [("F", "floating-point numbers"), ("I", "integers")])
def test_unknown_range_is_refused_with_its_row(tmp_path, mode, kind):
    image = Image.new(mode, (40, 40), 1)
    message = f"an image of mode {mode} holds 32-bit {kind}"
    with pytest.raises(ValueError, match=message):
        to_rgb(image)
    rows = [masked_rows(1, size=(40, 40))[0] | {"image": encode_image(picture, f"{name}.tif", "TIFF")} for name, picture in
            {"grey": Image.fromarray(RAMP), "bad": image}.items()]  # fmt: skip
    dataset = datasets.Dataset.from_list(rows, features=FEATURES)
    with pytest.raises(ValueError, match=rf"1 of 2 rows(.|\n)*row 1 \(bad.tif\): image cannot be decoded: {message}"):
        check_rows(dataset, "train", 4)
    dataset.to_parquet(tmp_path / "images.parquet")

    def masker(images, rows):
        assert [np.asarray(image)[..., 0].max() for image in images] == [255]
        return half_masks(images, rows)

    arguments = (masker, tmp_path / "images.parquet", tmp_path / "masks")
    with pytest.raises(ValueError, match=rf"`bad.tif` cannot be decoded: {message}(.|\n)*--skip_bad"):
        masks_by(*arguments)
    assert masks_by(*arguments, skip_bad=True) == {"train": (1, 1)}


def test_pipeline_reads_16_bit(tmp_path, processor):
    explain = pipeline("relevance-map", model=tiny_vit(), image_processor=processor)
    sixteen, grey, bad = (str(tmp_path / name) for name in ("16.png", "8.png", "bad.tif"))
    Image.fromarray(RAMP).save(sixteen)
    Image.fromarray(GREY).save(grey)
    Image.new("F", (40, 40)).save(bad)
    answers = [explain(source, overlay=True) for source in (sixteen, Image.fromarray(RAMP), grey)]
    assert len({answer["overlay"].tobytes() for answer in answers}) == 1
    with pytest.raises(ValueError, match="mode F"):
        explain(bad)


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000)])
def test_tokencut_does_not_enlarge_narrow_images(size):
    """To a shorter side of 64 pixels, they would have 82 million."""
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    narrow, good = TokenCut(tiny_vit(), min_side=64, min_pixels=0)([Image.new("RGB", size), noise], [{}, {}])
    assert narrow.mask is None and good.mask.size == (64, 64)
    assert narrow.rejected == "nothing to cut: all patches are alike, or no two are"


def test_captions_are_no_mathematics(tmp_path):
    """Which matplotlib would read between two dollars, and not be able to draw."""
    save_picture_grid([[("$_{$.jpg", np.zeros((4, 4, 3)))]], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
