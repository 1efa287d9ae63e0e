"""Preprocessing: what the model sees equals its saved processor, and image and mask move together."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessor

from robust_vit_hf import eval_transform, make_image_processor, train_transform
from robust_vit_hf.data.schema import mask_to_tensor
from robust_vit_hf.data.transforms import check_resized, segmentation_transform


IMAGENET_STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def noise_row(width=50, height=40, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[10:25, 8:30] = 255
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return {"image": [image], "mask": [Image.fromarray(mask)], "label": [3]}


def protocols():
    native = ViTImageProcessor(**IMAGENET_STATISTICS)
    return {"paper": make_image_processor("paper", 32), "native": make_image_processor("native", 32, native)}


def test_transforms_are_sent_to_workers_that_start_as_new_processes():
    processor = protocols()["native"]
    made = {"cut": eval_transform(processor, 2), "whole": eval_transform(processor, whole=True)}
    made |= {"segmentation": segmentation_transform(processor, 3), "train": train_transform(processor, resample=3)}
    for name, transform in made.items():
        torch.manual_seed(0)
        expected = transform(noise_row())
        torch.manual_seed(0)
        found = pickle.loads(pickle.dumps(transform))(noise_row())
        for key in ("pixel_values", "mask"):
            assert torch.equal(found[key][0], expected[key][0]), name


def test_presets_at_224():
    paper = make_image_processor("paper")
    assert paper.size["shortest_edge"] == 256 and dict(paper.crop_size) == {"height": 224, "width": 224}
    assert list(paper.image_mean) == list(paper.image_std) == [0.5] * 3
    assert paper.resample == Image.Resampling.BILINEAR
    native = make_image_processor("native", native_processor=ViTImageProcessor(**IMAGENET_STATISTICS))
    assert native.size["shortest_edge"] == 248 and native.resample == Image.Resampling.BICUBIC
    assert list(native.image_mean) == IMAGENET_STATISTICS["image_mean"]
    assert list(native.image_std) == IMAGENET_STATISTICS["image_std"]


@pytest.mark.parametrize("protocol", ["paper", "native"])
def test_evaluation_equals_the_saved_processor(protocol, tmp_path):
    processor = protocols()[protocol]
    processor.save_pretrained(tmp_path)
    rows = noise_row()
    batch = eval_transform(processor)(rows)
    expected = AutoImageProcessor.from_pretrained(tmp_path)(rows["image"], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"][0], expected[0])
    assert batch["pixel_values"][0].shape == (3, 32, 32) and batch["mask"][0].shape == (1, 32, 32)
    assert batch["labels"] == [3]


@pytest.mark.parametrize("image_size", [32, (32, 64)])
@pytest.mark.parametrize("make", [train_transform, eval_transform])
def test_image_and_mask_move_together(make, image_size):
    rows = noise_row(24, 20)  # enlarged, so that antialiasing changes nothing
    rows["image"] = [rows["mask"][0].convert("RGB")]  # an image that shows its own mask
    transform = make(make_image_processor("paper", image_size))
    for seed in range(20):
        torch.manual_seed(seed)
        batch = transform(rows)
        # mean and standard deviation 0.5 put black at −1 and white at 1
        image = (batch["pixel_values"][0][:1] + 1) / 2
        torch.testing.assert_close(image, batch["mask"][0], atol=2 / 255, rtol=0)  # images are rounded to 8 bits
        assert 0 < batch["mask"][0].mean() < 1


def test_a_wide_crop_is_not_padded():
    rows = {"image": [Image.new("RGB", (40, 40), "white")], "mask": [Image.new("L", (40, 40), 255)]}
    batch = eval_transform(make_image_processor("paper", (32, 64)))(rows)
    assert batch["mask"][0].shape == (1, 32, 64) and batch["mask"][0].min() > 1 - 1e-6


def test_a_whole_image_is_squashed_to_the_size_of_the_crop():
    batch = eval_transform(make_image_processor("paper", (32, 64)), whole=True)(noise_row())
    assert batch["pixel_values"][0].shape == (3, 32, 64) and batch["mask"][0].shape == (1, 32, 64)
    assert batch["mask"][0].mean() == pytest.approx(15 * 22 / (50 * 40), rel=0.05)


def test_training_crops_and_flips():
    transform = train_transform(make_image_processor("paper", 224))
    rows = noise_row(300, 200)
    rows["mask"] = [Image.new("L", (300, 200))]
    rows["mask"][0].paste(255, (80, 80, 140, 120))
    masks = []
    for seed in range(8):
        torch.manual_seed(seed)
        masks.append(transform(rows)["mask"][0])
    centres = [((mask[0].sum(0) * torch.arange(224)).sum() / mask.sum()).item() for mask in masks]
    assert min(centres) < 112 < max(centres)  # the object lies left of the middle, and right of it once flipped
    assert len({round(centre) for centre in centres}) > 3
    for mask in masks:  # squashed to 256×256, and not resized by the crop
        assert mask.sum().item() == pytest.approx(60 * 256 / 300 * 40 * 256 / 200, rel=0.01)


@pytest.mark.parametrize(("width", "squashed"), [(28, 32), (56, 64)])
def test_every_offset_of_a_training_crop_is_drawn(width, squashed):
    """From the first to the last, in each direction: the colours of a pixel say its row and its column."""
    places = np.zeros((32, squashed, 3), dtype=np.uint8)
    places[..., 0], places[..., 1] = np.mgrid[:32, :squashed]
    rows = {"image": [Image.fromarray(places)], "mask": [Image.new("L", (squashed, 32), 255)], "row_index": [0]}
    processor, offsets = make_image_processor("paper", (28, width)), []  # squashed to what the image is already
    for seed in range(80):
        crop = train_transform(processor, lambda row, seed=seed: (seed, row))(rows)["pixel_values"][0]
        crop = (255 * (crop + 1) / 2).round()
        assert crop.shape == (3, 28, width)
        offsets.append((int(crop[0].min()), int(crop[1].min())))
    tops, lefts = zip(*offsets, strict=True)
    assert {*tops} == {*range(32 - 28 + 1)} and {*lefts} == {*range(squashed - width + 1)}


@pytest.mark.parametrize("make", [train_transform, eval_transform])
def test_masks_are_resized_without_antialiasing(make):
    """As floating-point tensors are in the released code's torchvision 0.8.2."""
    rows = noise_row(100, 100)
    torch.manual_seed(0)
    mask = make(make_image_processor("paper", 28))(rows)["mask"][0]  # 32 pixels before the crop of 28
    whole = torch.from_numpy(np.asarray(rows["mask"][0]) / 255).float()[None, None]
    resized = torch.nn.functional.interpolate(whole, (32, 32), mode="bilinear", antialias=False)[0]
    crops = [resized[:, top : top + 28, left : left + 28] for top in range(5) for left in range(5)]
    assert any(torch.allclose(mask, one, atol=1e-5) for crop in crops for one in (crop, crop.flip(2)))


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_masks_of_the_segmentation_test_are_the_nearest_pixels(size):
    """Those under the centre of each new pixel; at 50 / 32, those under its corner are others."""
    rows = noise_row()
    found = segmentation_transform(make_image_processor("paper", size))(rows)["mask"][0]
    lines, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, (40, 50), strict=True)
    )
    assert (255 * found[0].numpy() == np.asarray(rows["mask"][0])[np.ix_(lines, columns)]).all()


def test_masks_of_ones_and_of_bits():
    ones = np.eye(4, dtype=np.uint8)
    expected = torch.from_numpy(255 * ones).unsqueeze(0)
    for mask in (Image.fromarray(ones), Image.fromarray(255 * ones), Image.fromarray(ones.astype(bool))):
        assert torch.equal(mask_to_tensor(mask), expected)


def test_an_image_that_a_resize_would_not_fit_into_memory_is_refused():
    """A file of a few hundred bytes, which would have 1,280 million pixels at a shortest edge of 256."""
    transform = eval_transform(make_image_processor("paper"))
    with pytest.raises(ValueError, match="An image of 20000×1 pixels would be resized to a shortest edge of 256"):
        transform({"image": [Image.new("RGB", (20000, 1))]})
    assert transform({"image": [Image.new("RGB", (40, 1))]})["pixel_values"][0].shape == (3, 224, 224)
    bounded = ViTImageProcessor(size={"shortest_edge": 256, "longest_edge": 512}, do_center_crop=False)
    check_resized([Image.new("RGB", (20000, 1))], bounded)
