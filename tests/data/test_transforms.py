"""What the model sees equals its saved processor, and image and mask are taken to the same place, by every image processor of a
classifier of transformers."""

import pickle

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageDraw
from torchvision.transforms import v2
from transformers import ViTImageProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from robust_vit_hf import eval_transform, make_image_processor, train_transform
from robust_vit_hf.data.mask_checks import mask_to_tensor
from robust_vit_hf.data.transforms import (
    check_resized,
    denormalize,
    input_size,
    place_in_image,
    segmentation_transform,
)
from robust_vit_hf.models.added_classifiers import OwnProcessor


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
    with pytest.raises(ValueError, match="An image of 20000×1 pixels would be resized to 5,120,000 pixels on its"):
        transform({"image": [Image.new("RGB", (20000, 1))]})
    assert transform({"image": [Image.new("RGB", (40, 1))]})["pixel_values"][0].shape == (3, 224, 224)
    bounded = ViTImageProcessor(size={"shortest_edge": 256, "longest_edge": 512}, do_center_crop=False)
    check_resized([Image.new("RGB", (20000, 1))], bounded)


CLASSES = sorted(
    {
        name
        for model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        for name in (IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}).values()
        if name != "TimmWrapperImageProcessor"
    }
)
# They give colours of a palette, and rows of patches.
REFUSED = ("ImageGPTImageProcessor", "Siglip2ImageProcessor")
ARGUMENTS = {
    "Donut": {"size": {"height": 160, "width": 120}},  # of 2560 × 1920
    "ImageGPT": {"clusters": np.random.default_rng(0).uniform(-1, 1, (16, 3))},
}
OTHERS = {
    "DPT, aspect ratio": lambda: transformers.DPTImageProcessor(
        size={"height": 64, "width": 96}, keep_aspect_ratio=True
    ),
    "ConvNeXt, crop_pct": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.8),
    "oblong": lambda: transformers.ViTImageProcessor(size={"height": 64, "width": 96}),
    "no crop": lambda: transformers.ViTImageProcessor(size={"shortest_edge": 64}),
    **{
        f"timm, {mode}": lambda mode=mode, share=share: transformers.TimmWrapperImageProcessor(
            {"input_size": [3, 64, 64], "crop_pct": share, "crop_mode": mode, "mean": [0.4] * 3, "std": [0.3] * 3}
        )
        for mode, share in (("center", 0.9), ("squash", 1.0), ("border", 0.95))
    },
}
# They keep the aspect ratio, so that images have several sizes.
KEPT = ("DPT, aspect ratio", "no crop", "TextNetImageProcessor")


# Functions of a user. One pads what is normalised already, and one pads with white.
TO_TENSOR = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.4] * 3, [0.3] * 3)]
FUNCTIONS = {
    "crop": v2.Compose([v2.Resize(72), v2.CenterCrop(64), *TO_TENSOR]),
    "squash": v2.Compose([v2.Resize((64, 96)), *TO_TENSOR]),
    "grey edges": v2.Compose([v2.Resize((60, 56)), *TO_TENSOR, v2.CenterCrop((64, 64))]),
    "white edges": v2.Compose([v2.Resize((60, 60)), v2.Pad(2, 255), *TO_TENSOR]),
    "function": lambda image: v2.Compose(TO_TENSOR)(image.resize((96, 64))),
}
FOLLOWED = [*CLASSES, *OTHERS, *FUNCTIONS]


def made(name: str):
    if name in FUNCTIONS:
        return OwnProcessor(FUNCTIONS[name])
    if name in OTHERS:
        return OTHERS[name]()
    arguments = next((given for start, given in ARGUMENTS.items() if name.startswith(start)), {})
    return getattr(transformers, name)(**arguments)


def probe(size: tuple[int, int]) -> dict[str, list]:
    """A bright rectangle on a dark ground, away from the middle, and its mask."""
    image, mask = Image.new("RGB", size, (20, 40, 60)), Image.new("L", size, 0)
    box = [size[0] * 0.3, size[1] * 0.35, size[0] * 0.6, size[1] * 0.68]
    ImageDraw.Draw(image).rectangle(box, fill=(240, 230, 220))
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return {"image": [image], "mask": [mask], "row_index": [0]}


def box(shown) -> np.ndarray:
    """First and last row and column of a rectangle, in a map of booleans `(H, W)`."""
    rows, columns = np.nonzero(np.asarray(shown))
    return np.array([rows.min(), rows.max(), columns.min(), columns.max()])


def seen(batch: dict[str, list], processor) -> torch.Tensor:
    """Where the model's input is bright, with what is padded taken as dark."""
    bright = denormalize(batch["pixel_values"][0], processor).mean(dim=0) > 0.5
    if getattr(processor, "transform", None) is FUNCTIONS["white edges"]:
        bright[:2], bright[-2:], bright[:, :2], bright[:, -2:] = False, False, False, False
    return bright


SIZES = ((150, 100), (90, 160), (64, 64), (300, 420))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", FOLLOWED)
def test_object_and_mask_are_taken_to_the_same_place(name, whole):
    """The edges of the bright rectangle and of the mask agree to a pixel of the input, and those of the mask that is placed in the image
    to a pixel of either; or a refusal says what to give."""
    processor = made(name)
    if name.removesuffix("Pil") in REFUSED + KEPT:
        kept = (
            "gives images of several sizes.*protocol `paper` or `native`"
            if name.removesuffix("Pil") in KEPT
            else "does not give images as"
        )
        with pytest.raises(ValueError, match=kept):
            eval_transform(processor, whole=whole)(probe((150, 100)))
        return
    transform = eval_transform(processor, whole=whole)
    for size in SIZES:
        rows = probe(size)
        batch = transform(rows)
        (values,), (mask,) = batch["pixel_values"], batch["mask"]
        assert values.shape[1:] == mask.shape[1:] == input_size(processor)
        assert values.dtype == mask.dtype == torch.float32 and mask.min() == 0 and 0.99 < mask.max() < 1.000001
        assert mask.gt(0.5).float().mean() > 0.05
        assert np.abs(box(seen(batch, processor)) - box(mask[0] > 0.5)).max() <= 1
        if not whole and name != "white edges":  # whose `Pad` is not read
            placed = np.asarray(place_in_image(mask[0], size, processor)) > 127
            pixel = max(max(size) / min(mask.shape[1:]), 1)  # of the input, in the image
            assert np.abs(box(placed) - box(rows["mask"][0])).max() <= pixel


@pytest.mark.parametrize("name", [name for name in FOLLOWED if name.removesuffix("Pil") not in REFUSED + KEPT])
def test_object_and_mask_are_cropped_and_flipped_alike_in_training(name):
    processor, turned = made(name), set()
    for seed in range(6):
        batch = train_transform(processor, lambda row, seed=seed: (seed, row))(probe((150, 100)))
        mask = batch["mask"][0]
        assert batch["pixel_values"][0].shape[1:] == mask.shape[1:] == input_size(processor)
        bright = denormalize(batch["pixel_values"][0], processor).mean(dim=0) > 0.5
        assert np.abs(box(bright) - box(mask[0] > 0.5)).max() <= 1
        turned.add(bool((mask[0].sum(0) * torch.arange(mask.shape[2])).sum() / mask.sum() > mask.shape[2] / 2))
    assert turned == {False, True}


@pytest.mark.parametrize("name", [name for name in FOLLOWED if name.removesuffix("Pil") not in REFUSED + KEPT])
def test_training_has_the_colours_of_the_evaluation(name):
    """Some processors swap the channels or normalise twice."""
    processor, rows = made(name), {"image": [Image.new("RGB", (96, 96), (250, 120, 10))]}
    rows["mask"] = [Image.new("L", (96, 96), 255)]
    middle = tuple(side // 2 for side in input_size(processor))
    expected = eval_transform(processor)(rows)["pixel_values"][0][:, *middle]
    for transform in (
        train_transform(processor),
        eval_transform(processor, whole=True),
        segmentation_transform(processor),
    ):
        torch.testing.assert_close(transform(rows)["pixel_values"][0][:, *middle], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["EfficientNetImageProcessor", "ViTImageProcessor", "ViTImageProcessorPil", "timm, squash"]
)
def test_a_soft_mask_stays_soft(name):
    """Where an image is not resized, its mask keeps its values."""
    processor = made(name)
    if "timm" not in name:
        processor.size = {"height": 64, "width": 64}
    mask = Image.fromarray(np.linspace(0, 255, 64 * 64).round().astype(np.uint8).reshape(64, 64))
    found = eval_transform(processor)({"image": [mask.convert("RGB")], "mask": [mask]})["mask"][0]
    torch.testing.assert_close(found, mask_to_tensor(mask) / 255, atol=1e-5, rtol=0)


def test_a_transform_that_is_random_is_refused():
    transform = eval_transform(OwnProcessor(v2.Compose([v2.Resize((96, 96)), v2.RandomCrop(64), *TO_TENSOR])))
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"is random, so that a mask cannot follow its image.*your own `transform`"):
        transform(probe((150, 100)))
