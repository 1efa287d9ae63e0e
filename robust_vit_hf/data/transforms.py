"""Joint transforms of image and mask, for training, evaluation and segmentation.

Images are decoded upright according to EXIF, and masks belong to upright images. Masks are resized bilinearly without
antialiasing, as in the released code, whose masks are floating-point tensors (torchvision 0.8.2 antialiases only
images). So edges have fractional values, and small objects are not blurred.
"""

from collections.abc import Callable
from functools import partial, wraps

import numpy as np
import torch
from PIL import ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor, ViTImageProcessor
from transformers.image_utils import PILImageResampling, pil_torch_interpolation_mapping

from ..utils.images import to_rgb
from .geometry import check_resized, has_plain_geometry, input_size, measured_transforms, normalization
from .schema import check_masks, mask_to_tensor


Transform = Callable[[dict[str, list]], dict[str, list]]  # of a batch of rows


def picklable(factory: Callable[..., Transform]) -> Callable[..., Transform]:
    """Decorator of functions that make a transform: it is pickled as the arguments of its function, for data loader workers that start as
    new processes, as on macOS and, from Python 3.14 on, on Linux."""

    @wraps(factory)
    def make(*args, **kwargs) -> Transform:
        return _Made(factory(*args, **kwargs), partial(make, *args, **kwargs))

    return make


class _Made:
    def __init__(self, transform: Transform, make: Callable[[], Transform]):
        self.transform, self.make = transform, make

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        return self.transform(rows)

    def __reduce__(self):
        return self.make, ()

    def __deepcopy__(self, memo: dict) -> "_Made":  # by `datasets`, for each new format
        return self


@picklable
def train_transform(
    processor: BaseImageProcessor,
    seed_of_row: Callable[[int], tuple[int, ...]] | None = None,
    resample: int = PILImageResampling.BILINEAR,
) -> Transform:
    """Joint training transform of the released code, for `Dataset.set_transform`: squash to 256×256, random crop of
    224 (both scaled to the images that the processor gives), horizontal flip.

    Args:
        processor: image processor, for the size of its images, which must be one, and their rescaling and normalisation.
        seed_of_row: seed of a row's crop and flip, as integers, by its `row_index`. By default, torch's global random
            state is used.
        resample: interpolation of the squash of images; bilinear in the released code.

    Returns:
        Function of a batch of rows with `image` and `mask` (PIL images) and, if any, `label`. It gives `pixel_values`, fp32
        `(3, H, W)`, `mask`, fp32 `(1, H, W)` in [0, 1], and `labels`.
    """
    height, width = input_size(processor)
    size = [round(height * 256 / 224), round(width * 256 / 224)]
    interpolation, normalize = pil_torch_interpolation_mapping[resample], normalization(processor)

    def transform(rows: dict[str, list]) -> dict[str, list]:
        batch = {"pixel_values": [], "mask": []}
        for index, (image, mask) in enumerate(zip(rows["image"], rows["mask"], strict=True)):
            seed = int(torch.randint(2**62, ())) if seed_of_row is None else seed_of_row(rows["row_index"][index])
            rng = np.random.default_rng(seed)
            top, left, flip = (int(rng.integers(limit)) for limit in (size[0] - height + 1, size[1] - width + 1, 2))
            image = functional.resize(functional.pil_to_tensor(to_rgb(image)), size, interpolation)
            mask = functional.resize(mask_to_tensor(mask) / 255, size, InterpolationMode.BILINEAR, antialias=False)
            crops = [functional.crop(picture, top, left, height, width) for picture in (image, mask)]
            image, mask = map(functional.horizontal_flip, crops) if flip else crops
            batch["pixel_values"].append(normalize(image))
            batch["mask"].append(mask)
        return batch | ({"labels": rows["label"]} if "label" in rows else {})

    return transform


class _MaskProcessor(ViTImageProcessor):
    def resize(self, image, size, resample=None, **kwargs):
        return super().resize(image, size, PILImageResampling.BILINEAR, antialias=False)


@picklable
def eval_transform(processor: BaseImageProcessor, border: int = 0, whole: bool = False) -> Transform:
    """Joint evaluation transform: images are processed by the processor, and masks, if any, get the same geometry.

    Args:
        processor: image processor of the model.
        border: width in pixels of a border that is cut at each edge first, of images without masks, such as ObjectNet's red one.
        whole: whether images are squashed to the size that the processor gives, instead of cropped.

    Returns:
        Function with the inputs and outputs of that of [`train_transform`].
    """
    transforms = _plain if has_plain_geometry(processor) else measured_transforms
    images_of, masks_of = transforms(processor, whole)

    def transform(rows: dict[str, list]) -> dict[str, list]:
        if "mask" in rows:
            check_masks(rows)
        images = [ImageOps.crop(to_rgb(image), border) for image in rows["image"]]
        check_resized(images, processor)
        batch = {"pixel_values": images_of(images)}
        if "mask" in rows:
            batch["mask"] = masks_of([mask_to_tensor(mask) for mask in rows["mask"]])
        return batch | ({"labels": rows["label"]} if "label" in rows else {})

    return transform


def _plain(processor: BaseImageProcessor, whole: bool) -> tuple[Callable, Callable]:
    """Functions of images, and of masks as tensors, by the settings of a processor."""
    if whole:
        height, width = input_size(processor)
        squashed = {"do_resize": True, "size": {"height": height, "width": width}}
        squashed |= {"do_center_crop": False, "crop_size": None}
        processor = type(processor).from_dict(processor.to_dict() | squashed)
    geometry = {name: getattr(processor, name) for name in ("do_resize", "size", "do_center_crop", "crop_size")}
    mask_processor = _MaskProcessor(**geometry, do_rescale=False, do_normalize=False)

    def of_masks(masks: list[torch.Tensor]) -> list[torch.Tensor]:
        input_size(processor)  # rejects several sizes
        return list(mask_processor([mask / 255 for mask in masks], return_tensors="pt")["pixel_values"])

    return lambda images: list(processor(images, return_tensors="pt")["pixel_values"].float()), of_masks


@picklable
def segmentation_transform(processor: BaseImageProcessor, resample: int = PILImageResampling.BILINEAR) -> Transform:
    """Transform of the paper's segmentation test, with the inputs and outputs of [`eval_transform`]: image and mask
    (by nearest neighbour) are squashed to the size of the images that the processor gives, without cropping. `resample` is
    the interpolation of images; bilinear in the paper's test."""
    size = [*input_size(processor)]
    if has_plain_geometry(processor):
        processor = type(processor).from_dict(processor.to_dict() | {"resample": resample})
    of_images = eval_transform(processor, whole=True)

    def transform(rows: dict[str, list]) -> dict[str, list]:
        check_masks(rows)
        masks = [mask_to_tensor(mask) for mask in rows["mask"]]
        resized = [functional.resize(mask, size, InterpolationMode.NEAREST_EXACT) / 255 for mask in masks]
        return of_images({"image": rows["image"]}) | {"mask": resized}

    return transform
