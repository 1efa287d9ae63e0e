"""Where image processors take objects: every class that a classifier of transformers uses takes image and mask to the same place."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageDraw
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from robust_vit_hf import eval_transform
from robust_vit_hf.data.transforms import input_size, measured_place, normalization
from robust_vit_hf.relevance.overlay import denormalize


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


def made(name: str):
    if name in OTHERS:
        return OTHERS[name]()
    arguments = next((given for start, given in ARGUMENTS.items() if name.startswith(start)), {})
    return getattr(transformers, name)(**arguments)


def probe(size: tuple[int, int]) -> dict[str, list[Image.Image]]:
    """A bright rectangle on a dark ground, and its mask."""
    image, mask = Image.new("RGB", size, (20, 40, 60)), Image.new("L", size, 0)
    box = [size[0] * 0.3, size[1] * 0.35, size[0] * 0.6, size[1] * 0.75]
    ImageDraw.Draw(image).rectangle(box, fill=(240, 230, 220))
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return {"image": [image], "mask": [mask]}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", [*CLASSES, *OTHERS])
def test_object_and_mask_are_taken_to_the_same_place(name, whole):
    """IoU of the bright pixels and the mask, of images of two aspect ratios, or a refusal that says what to give."""
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
    for size in ((150, 100), (90, 160)):
        batch = transform(probe(size))
        (values,), (mask,) = batch["pixel_values"], batch["mask"]
        assert values.shape[1:] == mask.shape[1:] == input_size(processor)
        bright, inside = denormalize(values, processor).mean(dim=0) > 0.5, mask[0] > 0.5
        assert inside.float().mean() > 0.05
        assert (bright & inside).sum() / (bright | inside).sum() >= 0.98


@pytest.mark.parametrize("settings", [{}, {"rescale_factor": 1 / 127.5}, {"do_normalize": False}], ids=str)
def test_training_normalises_as_the_processor_does(settings):
    settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.2, 0.1]} | settings
    processor = transformers.ViTImageProcessor(do_resize=False, **settings)
    image = np.random.default_rng(0).integers(0, 256, (3, 24, 24), dtype=np.uint8)
    expected = processor(torch.from_numpy(image), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(normalization(processor)(torch.from_numpy(image)), expected, atol=1e-5, rtol=1e-5)


def test_the_measured_place_of_pixels():
    """Of a squash to 64 × 64, which goes from edge to edge."""
    (across, left), (down, top) = measured_place(made("timm, squash"), (40, 30))
    assert (across, down) == pytest.approx((64 / 40, 64 / 30), rel=0.01) and abs(left) < 0.2 and abs(top) < 0.2
    assert measured_place(made("timm, squash"), (1, 30))[0] == (64, 0)


class SometimesFlipped(transformers.ViTImageProcessor):
    """In one of six calls, the fifth first."""

    calls = 0

    def preprocess(self, images, **kwargs):
        self.calls += 1
        found = super().preprocess(images, **kwargs)
        if self.calls % 6 == 5:
            found["pixel_values"] = found["pixel_values"].flip(-1)
        return found


def test_a_transform_that_is_random_now_and_then_is_refused():
    with pytest.raises(ValueError, match="is random"):
        measured_place(SometimesFlipped(size={"height": 64, "width": 64}), (40, 30))


class Cubed(transformers.ViTImageProcessor):
    def preprocess(self, images, **kwargs):
        found = super().preprocess(images, **kwargs)
        return found | {"pixel_values": found["pixel_values"] ** 3}


def test_a_transform_that_is_not_linear_is_refused():
    with pytest.raises(ValueError, match="changes the contrast of each image"):
        eval_transform(Cubed(size={"height": 64, "width": 64}))
