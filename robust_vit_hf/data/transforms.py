"""What a model sees: the geometry of image processors, and joint transforms of image and mask.

The geometry is read from the settings of processors that only resize, crop and normalise, and otherwise measured on flat images. Masks
are resized bilinearly without antialiasing, as in the released code.
"""

from collections.abc import Callable
from functools import lru_cache, partial, wraps

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor, ViTImageProcessor
from transformers.image_utils import PILImageResampling, pil_torch_interpolation_mapping

from ..utils.images import to_rgb
from .mask_checks import mask_to_tensor
from .schema import check_masks


SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
SETTINGS += ("do_normalize", "image_mean", "image_std")
ASKED = "give a protocol (`paper` or `native`), or your own `transform`, which takes an image and is not random"
Transform = Callable[[dict[str, list]], dict[str, list]]  # of a batch of rows


def has_plain_geometry(processor: BaseImageProcessor) -> bool:
    """Whether a processor only resizes, centre-crops, rescales and normalises, as a `ViTImageProcessor` does."""
    if not all(hasattr(processor, name) for name in SETTINGS):
        return False
    plain = ViTImageProcessor(**{name: getattr(processor, name) for name in SETTINGS})
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 80, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise[0]), Image.fromarray(noise[1] // 2).transpose(Image.Transpose.ROTATE_90)):
        given = processor([image], return_tensors="pt").get("pixel_values")
        are_images = given is not None and given[0].ndim == 3
        if not are_images or not np.array_equal(given[0], plain([image], return_tensors="pt")["pixel_values"][0]):
            return False
    return True


def input_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of the images that a processor gives, which must all have one size."""
    if has_plain_geometry(processor):
        size = processor.crop_size if processor.do_center_crop else processor.size if processor.do_resize else None
        if size and size.get("height") and size.get("width"):
            return size["height"], size["width"]
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


def normalization(processor: BaseImageProcessor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The processor's rescaling and normalisation of an 8-bit image `(3, H, W)`."""
    both = has_plain_geometry(processor) and processor.do_rescale and processor.do_normalize
    if both and processor.rescale_factor == 1 / 255:
        # In two steps as in the released code, from which the processor's single step differs in the last bit.
        normalize = v2.Normalize(list(processor.image_mean), list(processor.image_std))
        return lambda image: normalize(functional.to_dtype(image, scale=True))
    black, white = (level.view(3, 1, 1) for level in pixel_levels(processor))
    return lambda image: black + (white - black) * (image / 255)


def measured_transforms(processor: BaseImageProcessor, whole: bool) -> tuple[Callable, Callable]:
    """Functions of images and of masks for any other processor; `whole` squashes both. A mask is processed as an image, and compared
    with a black and a white image. Processors that are random or not linear in the pixels are rejected."""
    if whole:
        size, normalize = [*input_size(processor)], normalization(processor)
        squash = partial(functional.resize, size=size)
        return (
            lambda images: [normalize(squash(functional.pil_to_tensor(image))) for image in images],
            lambda masks: [squash(mask / 255) for mask in masks],
        )
    levels = lru_cache(maxsize=16)(lambda size: tuple(_flat(processor, level, size) for level in (0, 255)))
    _check_linear(processor)

    def of_masks(masks: list[torch.Tensor]) -> list[torch.Tensor]:
        input_size(processor)  # rejects several sizes
        pictures = map(functional.to_pil_image, masks)
        return [_grey(processor, picture, *levels(picture.size)) for picture in pictures]

    return lambda images: [
        values.float() for values in processor(images, return_tensors="pt")["pixel_values"]
    ], of_masks


def place_in_image(values: torch.Tensor, size: tuple[int, int], processor: BaseImageProcessor) -> Image.Image:
    """Place a map of the model's input `(H, W)`, in [0, 1], such as relevance, in the image of the given width and height from which
    the processor made the input. The picture is 0 outside the crop."""
    picture = Image.fromarray((255 * values.clamp(0, 1)).round().byte().cpu().numpy())
    if not has_plain_geometry(processor):
        (across, left), (down, top) = measured_place(processor, size)
    else:
        if not processor.do_center_crop:
            resized = picture.size
        elif not processor.do_resize:
            resized = size
        elif edge := processor.size.get("shortest_edge"):
            resized = tuple(edge * side / min(size) for side in size)
        else:
            resized = (processor.size["width"], processor.size["height"])
        # A crop that is larger than the resized image pads it, and begins before it.
        across, down = (length / side for length, side in zip(resized, size, strict=True))
        left, top = ((side - length) / 2 for length, side in zip(resized, picture.size, strict=True))
    coordinates = (across, 0, left, 0, down, top)  # from pixels of the image to those of the map
    return picture.transform(size, Image.Transform.AFFINE, coordinates, Image.Resampling.BILINEAR)


def measured_place(processor: BaseImageProcessor, size: tuple[int, int]) -> list[tuple[float, float]]:
    """From where a processor takes the pixels of images of this width and height: factor and offset, for columns and for rows, from
    coordinates in the image to those in its output, fitted to a gradient of grey."""
    _check_linear(processor)
    black, white = (_flat(processor, level, size) for level in (0, 255))
    lines = []
    for axis, side in enumerate(size):
        ramp = np.linspace(0, 255, side).round().astype(np.uint8)
        pixels = np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1])
        seen = _grey(processor, Image.fromarray(pixels.copy()), black, white)[0].numpy()
        values = seen[seen.shape[0] // 2] if axis == 0 else seen[:, seen.shape[1] // 2]
        inside = (values > 0.02) & (values < 0.98)  # not where it pads
        if inside.sum() < 2:  # the side has a single pixel
            lines.append((len(values) / side, 0.0))
        else:
            lines.append(tuple(np.polyfit(values[inside] * (side - 1) + 0.5, np.flatnonzero(inside) + 0.5, 1)))
    return lines


def _grey(
    processor: BaseImageProcessor, picture: Image.Image, black: torch.Tensor, white: torch.Tensor
) -> torch.Tensor:
    """Grey values `(1, H, W)` in [0, 1] of a processed picture; 0 where the processor pads."""
    contrast = (white - black).mean(dim=0, keepdim=True)
    inside = (_processed(processor, picture.convert("RGB")) - black).mean(dim=0, keepdim=True)
    return torch.where(contrast.abs() > 1e-6, inside / contrast, 0.0).clamp(0, 1)


def _check_linear(processor: BaseImageProcessor) -> None:
    # So far from black and white that no interpolation reaches them.
    noise = 5 * np.random.default_rng(0).integers(12, 40, (80, 120, 3), dtype=np.uint8)
    black, white = (_flat(processor, level, (120, 80)) for level in (0, 255))
    first, dark = (_processed(processor, Image.fromarray(pixels)) for pixels in (noise, noise // 5))
    again = (_processed(processor, Image.fromarray(noise)) for _ in range(10))  # since random flips may agree
    same, contrast = all(torch.equal(first, other) for other in again), (white - black).abs().max()
    if not same or not contrast or (dark - black - 0.2 * (first - black)).abs().max() > 0.01 * contrast:
        why = "changes the contrast of each image" if same else "is random"
        raise ValueError(
            f"The image processor, a {type(processor).__name__}, {why}, so that a mask cannot follow its image: {ASKED}."
        )


def _flat(processor: BaseImageProcessor, level: int, size: tuple[int, int]) -> torch.Tensor:
    return _processed(processor, Image.new("RGB", size, (level,) * 3))


def _processed(processor: BaseImageProcessor, image: Image.Image) -> torch.Tensor:
    values = processor([image], return_tensors="pt").get("pixel_values")
    if values is None or values[0].ndim != 3:
        raise ValueError(
            f"The image processor, a {type(processor).__name__}, does not give images as `pixel_values` (3, H, W): {ASKED}."
        )
    return values[0].float()


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
    """Joint training transform of the released code: squash to 256×256, random crop of 224 (both scaled to the
    processor's size), horizontal flip.

    Args:
        processor: image processor, whose images have one size.
        seed_of_row: gives the seed of a row's crop and flip by its `row_index`; by default, torch's random state is used.
        resample: interpolation of the squash of images; bilinear in the released code.

    Returns:
        Function of a batch of rows with `image` and `mask` (PIL images) and optionally `label`. It returns `pixel_values`, fp32
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
        border: width in pixels of a border that is cut off first, such as ObjectNet's red border.
        whole: whether images are squashed to the processor's size, instead of cropped.

    Returns:
        Function with the inputs and outputs of the function that [`train_transform`] returns.
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
    """Transform of the paper's segmentation test: as [`eval_transform`], but image and mask are squashed, the mask by nearest pixels."""
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
