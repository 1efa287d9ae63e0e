"""Joint transforms of image and mask, and the place of a map of the model's input in the image.

A mask goes through the image processor of its image, on torchvision bilinearly and without antialiasing, as in the released code.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache, partial, wraps

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import PILImageResampling, pil_torch_interpolation_mapping
from transformers.processing_utils import ImagesKwargs

from ..utils.images import to_rgb
from .mask_checks import mask_to_tensor
from .schema import check_masks


ASKED = "give a protocol (`paper` or `native`), or your own `transform`, which takes an image and is not random"
Transform = Callable[[dict[str, list]], dict[str, list]]  # of a batch of rows


def has_plain_geometry(processor: BaseImageProcessor) -> bool:
    """Whether a processor is on torchvision, and its class adds no step or setting for images to those of a `ViTImageProcessor`."""
    kind, backend = type(processor), TorchvisionBackend
    if not isinstance(processor, backend) or (kind.resize, kind.center_crop) != (backend.resize, backend.center_crop):
        return False
    return kind.valid_kwargs.__annotations__.keys() <= ImagesKwargs.__annotations__.keys() | {"do_reduce_labels"}


def _pixels(processor: BaseImageProcessor, images: list, **settings) -> list[torch.Tensor]:
    """Processed images `(3, H, W)`, fp32; `ValueError` if the processor gives anything else. `settings` replace attributes."""
    processor = copy(processor)
    vars(processor).update(settings)
    values = processor(images, return_tensors="pt").get("pixel_values")
    if values is None or values[0].ndim != 3:
        raise ValueError(
            f"The image processor, a {type(processor).__name__}, does not give images as `pixel_values` (3, H, W): {ASKED}."
        )
    return [image.float() for image in values]


def _flat(processor: BaseImageProcessor, level: int, size: tuple[int, int]) -> torch.Tensor:
    return _pixels(processor, [Image.new("RGB", size, (level,) * 3)])[0]


def input_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of the images that a processor gives, which must all have one size."""
    sizes = {tuple(_flat(processor, 0, size).shape[1:]) for size in ((160, 96), (96, 160))}
    if len(sizes) > 1:
        raise ValueError(
            f"A {type(processor).__name__} gives images of several sizes: crop them (`crop_size`), or give the protocol `paper` or `native`"
        )
    return sizes.pop()


def pixel_levels(processor: BaseImageProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values `(3,)` of black and of white after processing."""
    black, white = (_flat(processor, level, (64, 64)) for level in (0, 255))
    middle = black.shape[1] // 2, black.shape[2] // 2  # at the edges, a processor may pad
    return black[:, *middle], white[:, *middle]


def denormalize(pixel_values: torch.Tensor, processor: BaseImageProcessor) -> torch.Tensor:
    """Colours in [0, 1] of normalised pixel values `(B, 3, H, W)`."""
    black, white = (level.view(3, 1, 1) for level in pixel_levels(processor))
    return ((pixel_values - black) / (white - black)).clamp(0, 1)


def normalization(processor: BaseImageProcessor, released: bool = True) -> Callable[[torch.Tensor], torch.Tensor]:
    """The processor's rescaling and normalisation of an 8-bit image `(3, H, W)`; by default in two steps as in the released code, from
    which the processor's single step differs in the last bit."""
    both = released and has_plain_geometry(processor) and processor.do_rescale and processor.do_normalize
    if both and processor.rescale_factor == 1 / 255:
        normalize = v2.Normalize(list(processor.image_mean), list(processor.image_std))
        return lambda image: normalize(functional.to_dtype(image, scale=True))
    if isinstance(processor, TorchvisionBackend | PilBackend):  # some swap the channels, too
        kept = dict.fromkeys(("do_resize", "do_center_crop", "do_pad"), False)
        return lambda image: _pixels(processor, [image], **kept)[0]
    black, white = (level.view(3, 1, 1) for level in pixel_levels(processor))
    return lambda image: black + (white - black) * (image / 255)


def place_in_image(values: torch.Tensor, size: tuple[int, int], processor: BaseImageProcessor) -> Image.Image:
    """Place a map of the model's input `(H, W)`, in [0, 1], such as relevance, in the image of the given width and height from which
    the processor made the input. The picture is 0 outside the crop."""
    picture = Image.fromarray((255 * values.clamp(0, 1)).round().byte().cpu().numpy())
    sides, choose = _resize_of(processor, size, picture.size)
    if choose is not None:
        factor = choose(new / side for new, side in zip(sides, size, strict=True))
        sides = [factor * side for side in size]
    # A crop that is larger than the resized image pads it, and begins before it.
    across, down = (length / side for length, side in zip(sides, size, strict=True))
    left, top = ((side - length) / 2 for length, side in zip(sides, picture.size, strict=True))
    coordinates = (across, 0, left, 0, down, top)  # from pixels of the image to those of the map
    return picture.transform(size, Image.Transform.AFFINE, coordinates, Image.Resampling.BILINEAR)


def _resize_of(
    processor: BaseImageProcessor, size: tuple[int, int], target: tuple[int, int]
) -> tuple[Sequence[float], Callable | None]:
    """Width and height to which a processor squashes an image of `size`, or which the image covers (`max`) or fits in (`min`), before
    its middle is cropped or padded to `target`. Unless settings or a `Compose` say more, the image is squashed to `target`."""
    kind, settings = type(processor).__name__, vars(processor)
    steps = getattr(settings.get("val_transforms") or settings.get("transform"), "transforms", ())  # timm, or own
    named = {type(step).__name__: step for step in steps}
    if resize := named.get("Resize") or named.get("ResizeKeepRatio"):
        sides = [resize.size] * 2 if isinstance(resize.size, int) else (resize.size * 2)[1::-1]
        if longest := getattr(resize, "longest", None):
            return sides, min
        return sides, max if longest == 0 or np.size(resize.size) == 1 else None
    sizes, crops, share = settings.get("size") or {}, settings.get("do_center_crop"), settings.get("crop_pct")
    edge = settings.get("resize_short") or sizes.get("shortest_edge") or 0  # PP-LCNet; others
    if edge and share and (crops or edge < 384):  # PoolFormer; ConvNeXt
        return [edge / share] * 2, max
    if settings.get("do_thumbnail") or not (crops or "CenterCrop" in named):  # Donut pads
        return target, min if settings.get("do_thumbnail") else None
    if not settings.get("do_resize"):
        return size, None
    if kind.startswith("Perceiver"):  # it crops first, in proportion to the crop
        edge = settings["crop_size"]["height"]
    edge *= 256 / 224 if kind.startswith("Levit") else 1
    return ([edge] * 2, max) if edge else ((sizes["width"], sizes["height"]), None)


def check_resized(images: list[Image.Image], processor: BaseImageProcessor) -> None:
    """Raise an error for images so narrow that they would exceed `PIL.Image.MAX_IMAGE_PIXELS` when resized."""
    size = getattr(processor, "size", None) or {}
    shortest = None if size.get("longest_edge") else size.get("shortest_edge")
    if not (getattr(processor, "do_resize", False) and shortest and Image.MAX_IMAGE_PIXELS):
        return
    for image in images:
        longest = round(shortest * max(image.size) / min(image.size))
        if shortest * longest > Image.MAX_IMAGE_PIXELS:
            raise ValueError(
                f"An image of {image.width}×{image.height} pixels would be resized to {longest:,} pixels on its longer side: crop it."
            )


def picklable(factory: Callable[..., Transform]) -> Callable[..., Transform]:
    """Decorator of functions that make a transform: for spawned workers, the arguments are pickled instead of the transform."""

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
    """Joint training transform of the released code: squash to 256×256, random crop of 224 (both scaled to the processor's size, which
    must be one), horizontal flip.

    Args:
        seed_of_row: gives the seed of a row's crop and flip by its `row_index`; by default, torch's random state is used.
        resample: interpolation of the squash of images; bilinear in the released code.

    Returns:
        Function of a batch of rows with `image` and `mask` (PIL images) and optionally `label`. It returns `pixel_values`, fp32
        `(3, H, W)`, `mask`, fp32 `(1, H, W)` in [0, 1], and `labels`.
    """
    height, width = input_size(processor)
    size = [round(height * 256 / 224), round(width * 256 / 224)]
    normalize = normalization(processor)

    def transform(rows: dict[str, list]) -> dict[str, list]:
        batch = {"pixel_values": [], "mask": []}
        for index, pair in enumerate(zip(rows["image"], rows["mask"], strict=True)):
            seed = int(torch.randint(2**62, ())) if seed_of_row is None else seed_of_row(rows["row_index"][index])
            rng = np.random.default_rng(seed)
            top, left, flip = (int(rng.integers(limit)) for limit in (size[0] - height + 1, size[1] - width + 1, 2))
            squashed = _squash_image(pair[0], size, resample), _squash_mask(mask_to_tensor(pair[1]), size)
            crops = [functional.crop(picture, top, left, height, width) for picture in squashed]
            image, mask = map(functional.horizontal_flip, crops) if flip else crops
            batch["pixel_values"].append(normalize(image))
            batch["mask"].append(mask)
        return batch | ({"labels": rows["label"]} if "label" in rows else {})

    return transform


def _squash_image(image: Image.Image, size: Sequence[int], resample: int) -> torch.Tensor:
    return functional.resize(
        functional.pil_to_tensor(to_rgb(image)), [*size], pil_torch_interpolation_mapping[resample]
    )


def _squash_mask(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return functional.resize(mask / 255, [*size], InterpolationMode.BILINEAR, antialias=False)


def _process_mask(mask: torch.Tensor, processor: BaseImageProcessor) -> torch.Tensor:
    """An 8-bit mask `(1, H, W)` as a processor takes its image; fp32 in [0, 1]."""
    if isinstance(processor, TorchvisionBackend):

        def resize(image: torch.Tensor, size: dict, resample: int | None = None, *args, **kwargs) -> torch.Tensor:
            return processor.resize(image, size, PILImageResampling.BILINEAR, *args, antialias=False, **kwargs)

        # `include_top` is a second normalisation of EfficientNet.
        settings = dict.fromkeys(("do_rescale", "do_normalize", "include_top", "do_convert_rgb"), False)
        image = mask / 255 if has_plain_geometry(processor) else mask.expand(3, -1, -1) / 255  # others swap channels
        return _pixels(processor, [image], resize=resize, **settings)[0][:1]
    picture = functional.to_pil_image(mask).convert("RGB")  # as an image, between a black one and a white one
    pictures = [Image.new("RGB", picture.size), picture, picture, Image.new("RGB", picture.size, "white")]
    black, seen, again, white = (_pixels(processor, [one])[0].mean(0, keepdim=True) for one in pictures)
    if not torch.equal(seen, again):
        raise ValueError(
            f"The image processor, a {type(processor).__name__}, is random, so that a mask cannot follow its image: {ASKED}."
        )
    return torch.where(white == black, 0, (seen - black) / (white - black)).clamp(0, 1)  # 0 where it pads


@picklable
def eval_transform(processor: BaseImageProcessor, border: int = 0, whole: bool = False) -> Transform:
    """Joint evaluation transform: images are processed by the processor, and masks, if any, get the same geometry.

    Args:
        border: width in pixels of a border that is cut off first, such as ObjectNet's red border.
        whole: whether images are squashed to the processor's size, instead of cropped.

    Returns:
        Function with the inputs and outputs of the function that [`train_transform`] returns.
    """
    size_of = lru_cache(1)(partial(input_size, processor))
    images_of = _squashing(processor, getattr(processor, "resample", None)) if whole else partial(_pixels, processor)

    def transform(rows: dict[str, list]) -> dict[str, list]:
        if "mask" in rows:
            check_masks(rows)
            size_of()  # rejects several sizes
        images = [ImageOps.crop(to_rgb(image), border) for image in rows["image"]]
        check_resized(images, processor)
        batch = {"pixel_values": images_of(images)}
        if "mask" in rows:
            masks = map(mask_to_tensor, rows["mask"])
            batch["mask"] = [_squash_mask(of, size_of()) if whole else _process_mask(of, processor) for of in masks]
        return batch | ({"labels": rows["label"]} if "label" in rows else {})

    return transform


def _squashing(processor: BaseImageProcessor, resample: int | None) -> Callable[[list], list[torch.Tensor]]:
    size, normalize = input_size(processor), normalization(processor, released=False)
    resample = PILImageResampling.BILINEAR if resample is None else resample
    return lambda images: [normalize(_squash_image(image, size, resample)) for image in images]


@picklable
def segmentation_transform(processor: BaseImageProcessor, resample: int = PILImageResampling.BILINEAR) -> Transform:
    """Transform of the paper's segmentation test: as [`eval_transform`], but image and mask are squashed, the mask by nearest pixels."""
    size, images_of = [*input_size(processor)], _squashing(processor, resample)

    def transform(rows: dict[str, list]) -> dict[str, list]:
        check_masks(rows)
        masks = [mask_to_tensor(mask) for mask in rows["mask"]]
        resized = [functional.resize(mask, size, InterpolationMode.NEAREST_EXACT) / 255 for mask in masks]
        return {"pixel_values": images_of(rows["image"]), "mask": resized}

    return transform
