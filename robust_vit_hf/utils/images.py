"""Images: formats, reading from files and URLs, and conversion to RGB; overlays of maps; pictures and text in figures of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import get_session
from PIL import Image, ImageOps, UnidentifiedImageError


# Formats that Pillow recognises but cannot decode itself.
_STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}
# Axes that hold a picture and a title. Ticks take a third of the time to draw, even if `axis("off")` hides them.
PICTURE_AXES = {"frame_on": False, "xticks": [], "yticks": []}

# HEIC, if `pillow-heif` is installed. Registered here, since workers of data loaders import this module too.
with suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener()


def _refuse_pointer(*_):
    raise UnidentifiedImageError("a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder")


Image.register_open("GIT_LFS", _refuse_pointer, lambda start: start == b"version https://")


def readable_suffixes() -> set[str]:
    """Suffixes, in lower case, of images that Pillow reads: `.avif` since 11.3, `.heic` with `pillow-heif`."""
    Image.init()
    readable = Image.OPEN.keys() - _STUBS | {"MPO"}  # MPO opens as a JPEG
    return {suffix for suffix, name in Image.EXTENSION.items() if name in readable}


def is_picture(path: Path) -> bool:
    """Whether a file begins like an image that Pillow reads, whatever its name."""
    with suppress(Exception):  # codecs raise any type
        with Image.open(path) as opened:
            return opened.format not in _STUBS | {"TGA"}  # TGA has no signature
    return False


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB; RGB images are returned unchanged.

    16-bit greyscale is rescaled, which Pillow would clip to white; other modes are converted as by Pillow, `datasets` and
    torchvision. More pixels than `Image.MAX_IMAGE_PIXELS` raise an error; Pillow only warns."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width}×{image.height} pixels are more than Pillow's limit of {limit:,} (a decompression bomb?): shrink the "
            "image, or raise `PIL.Image.MAX_IMAGE_PIXELS`"
        )
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F"):
        raise ValueError(
            f"an image of mode {image.mode} holds 32-bit {'integers' if image.mode == 'I' else 'floating-point numbers'}, whose "
            "range is not known: save it with 8 bits per channel"
        )
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))  # 65535 / 255
    return image.convert("RGB")


def upright_image(source: Image.Image | str | Path) -> Image.Image:
    """Load an image, a path or a URL as RGB, upright according to EXIF. Errors name the file."""
    if not isinstance(source, Image.Image):
        if str(source).startswith(("http://", "https://")):
            source = io.BytesIO(get_session().get(str(source), follow_redirects=True).raise_for_status().content)
        source = Image.open(source)
    try:
        return to_rgb(ImageOps.exif_transpose(source))
    except (OSError, SyntaxError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(f"`{getattr(source, 'filename', '')}` cannot be read as an image: {error}") from error


def encode_image(image: Image.Image, name: str | None = None, file_format: str = "BMP", **settings) -> dict:
    """Encode an image for a row. Loaders use BMP, which is 30 times as fast as PNG."""
    encoded = io.BytesIO()
    image.save(encoded, file_format, **settings)
    return {"bytes": encoded.getvalue(), "path": name}


def to_webp(picture: Image.Image) -> dict:
    """Encode a picture as WebP, for a column of type `datasets.Image`."""
    return encode_image(picture, None, "WEBP", quality=90)


def plain(text: str) -> str:
    """Escape `$` in names of classes and sets: matplotlib would parse `$…$` as mathematics, and fail on most of it."""
    return text.replace("$", r"\$")


def save_picture_grid(rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: Path) -> None:
    """Save a grid of pictures `(H, W, 3)`, in [0, 1] or of 8 bits, each below its caption. No row is longer than the first."""
    from matplotlib.figure import Figure

    # One axes in inches for all of them: axes of their own take seconds.
    width, height, side = 1.5, 1.85, 1.4
    figure = Figure((width * len(rows[0]), height * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    for number, pictures in enumerate(rows):
        for column, (caption, picture) in enumerate(pictures):
            x, top = width * (column + 0.5), height * (number + 1) - side
            half, high = (
                side * length / max(picture.shape[:2]) for length in (picture.shape[1] / 2, picture.shape[0])
            )
            axes.imshow(picture, extent=(x - half, x + half, top + high, top))
            axes.text(x, top - 0.05, plain(caption), fontsize=7, ha="center", va="bottom")
    axes.set(xlim=(0, width * len(rows[0])), ylim=(height * len(rows), 0))
    figure.savefig(path, dpi=100)


def overlay(images: torch.Tensor, relevance: torch.Tensor, colours: str = "inferno") -> torch.Tensor:
    """Overlay maps `(B, 1, H, W)`, in the colours of a colour map of Matplotlib, on greyscale versions of images `(B, 3, H, W)`. Both
    are in [0, 1] and on the CPU, and so are the pictures `(B, 3, H, W)` that are returned."""
    from matplotlib import colormaps

    coloured = torch.from_numpy(colormaps[colours](relevance[:, 0].numpy())[..., :3]).permute(0, 3, 1, 2).float()
    return 0.35 * images.mean(dim=1, keepdim=True) + 0.65 * coloured
