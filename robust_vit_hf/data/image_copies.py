"""Copies of images: those with the same pixels, whatever their names and files."""

import io
from dataclasses import dataclass, field

import datasets
import numpy as np
import xxhash
from PIL import Image, ImageOps

from ..utils.images import to_rgb
from .schema import undecoded


SIDE, TOLERANCE = 8, 8  # pixels of a thumbnail, and levels by which those of one picture differ between formats


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images to look for copies of. What cannot be read has none, which the check of the rows reports."""

    rows: datasets.Dataset  # undecoded `image`, with `bytes` or `path`
    thumbnails: np.ndarray  # `(N, 192)` in 0–255, NaN for images that cannot be read
    digests: dict[int, str] = field(default_factory=dict)  # of pixels, by number, as they are asked for

    @classmethod
    def of(cls, dataset: datasets.Dataset) -> "Pictures":
        rows = undecoded(dataset.with_format(None).select_columns(["image"]))
        return cls(rows, np.array([_thumbnail(row["image"]) for row in rows]).reshape(-1, 3 * SIDE**2))

    def count_in(self, others: "Pictures") -> int:
        """Number of these images that are among the others."""
        count = 0
        for number, thumbnail in enumerate(self.thumbnails):
            near = np.abs(others.thumbnails - thumbnail).max(axis=1) <= TOLERANCE
            count += any(self._digest(number) == others._digest(other) for other in np.flatnonzero(near).tolist())
        return count

    def _digest(self, number: int) -> str:
        if number not in self.digests:
            picture = to_rgb(ImageOps.exif_transpose(_opened(self.rows[number]["image"])))
            self.digests[number] = xxhash.xxh3_128_hexdigest(repr(picture.size).encode() + picture.tobytes())
        return self.digests[number]


def _opened(image: dict) -> Image.Image:
    return Image.open(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"]))


def _thumbnail(image: dict | None) -> np.ndarray:
    try:
        picture = _opened(image)
        picture.draft("RGB", (8 * SIDE, 8 * SIDE))  # of a JPEG, an eighth of its size
        small = to_rgb(ImageOps.exif_transpose(picture)).resize((SIDE, SIDE), Image.Resampling.BOX)
        return np.asarray(small, np.float32).ravel()
    except Exception:  # codecs raise any type
        return np.full(3 * SIDE**2, np.nan, np.float32)
