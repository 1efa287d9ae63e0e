"""Foreground masks from existing annotations: boxes, polygons and run-length encodings in COCO's JSON format.

Source: https://cocodataset.org/#format-data
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from .tokencut import MaskResult


class CocoAnnotations:
    """Masks from the union of an image's annotations, of one category or of all, in a JSON file in COCO's format."""

    def __init__(self, path: str | Path, category: str | None = None):
        self.path, self.by_name, self.by_image = path, {}, defaultdict(list)
        try:
            content = json.loads(Path(path).read_bytes())
            self.category_names = {entry["id"]: entry["name"] for entry in content["categories"]}
            for annotation in content["annotations"]:
                if category is None or self.category_names.get(annotation["category_id"]) == category:
                    self.by_image[annotation["image_id"]].append(annotation)
            for entry in content["images"]:
                name = str(entry["file_name"]).replace("\\", "/")
                self.by_name[name] = (entry["id"], (entry["width"], entry["height"]))
        except (KeyError, TypeError, ValueError) as error:
            expected = "`images`, `annotations` and `categories`"
            raise ValueError(f"`{path}` is not a COCO annotation file with {expected}: {error!r}.") from error
        if len(self.by_name) < len(content["images"]):
            raise ValueError(f"`{path}` has a `file_name` twice: list each image once.")
        if category is not None and category not in self.category_names.values():
            raise ValueError(
                f"`{path}` has no category `{category}`; it has {', '.join(self.category_names.values())}."
            )
        self.sought = "annotation" if category is None else f"annotation of `{category}`"
        self.by_end = defaultdict(set)  # names in the file, by all ends of their paths
        for name in self.by_name:
            for end in _ends(name):
                self.by_end[end].add(name)

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of images, in order, by the `file_name` of their rows. It is looked up with its folder; otherwise, the only entry
        whose path ends with it is taken, or the longest entry with which it ends."""
        return [self._mask(image, row["file_name"]) for image, row in zip(images, rows, strict=True)]

    def claimed(self, rows: Iterable[dict]) -> Iterator[dict]:
        """Yield the rows in order. Raises an error for two rows that have the same annotations."""
        owners: dict[str, str] = {}
        for row in rows:
            if entry := self._entry(row["file_name"]):
                if entry in owners:
                    names = f"`{owners[entry]}` and `{row['file_name']}`"
                    raise ValueError(
                        f"{names} would both have the annotations of `{entry}` in `{self.path}`: name the images with their folders."
                    )
                owners[entry] = row["file_name"]
            yield row

    def _entry(self, name: str) -> str | None:
        if name in self.by_name:
            return name
        if longer := self.by_end.get(name):
            return next(iter(longer)) if len(longer) == 1 else None
        return next((end for end in _ends(name) if end in self.by_name), None)

    def _mask(self, image: Image.Image, name: str) -> MaskResult:
        entry = self._entry(name)
        if entry is None:
            return MaskResult(None, rejected=f"`{name}` is not in `{self.path}`, or several entries end with it")
        number, size = self.by_name[entry]
        if image.size != size:
            raise ValueError(
                f"`{name}` has {image.width}×{image.height} pixels, but `{self.path}` says {size[0]}×{size[1]}: give images that are neither resized nor rotated."
            )
        annotations = self.by_image.get(number, [])
        if not annotations:
            return MaskResult(None, rejected=f"no {self.sought}")
        union = np.zeros((image.height, image.width), dtype=bool)
        for annotation in annotations:
            try:
                union |= _foreground(annotation, *union.shape)
            except Exception as error:  # the decoder raises any type
                raise ValueError(
                    f"An annotation of `{entry}` (id {annotation.get('id')}) in `{self.path}` cannot be read: {error}. "
                    "Expected a `segmentation` (polygons or run lengths) or a `bbox` of x, y, width and height."
                ) from error
        names = [str(self.category_names.get(annotation["category_id"], "unnamed")) for annotation in annotations]
        return MaskResult.of(union, ", ".join(names), None if union.any() else "the annotations cover no pixel")


def _ends(name: str) -> Iterator[str]:
    parts = name.strip("/").split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _foreground(annotation: dict, height: int, width: int) -> np.ndarray:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        left, top, box_width, box_height = map(float, annotation["bbox"])
        # The pixels whose centres lie in the box.
        x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        return (left <= x) & (x < left + box_width) & (top <= y) & (y < top + box_height)
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        encoded = run_lengths.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
        fills = not isinstance(counts, list) or sum(counts) == height * width
    else:
        # pycocotools reads four numbers as a box, and drops the last of an odd count.
        fills = all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation)
        encoded = run_lengths.merge(run_lengths.frPyObjects(segmentation, height, width))
    foreground = run_lengths.decode(encoded)
    # Pixels after the end of damaged run lengths are uninitialised memory.
    if not fills or foreground.sum() != run_lengths.area(encoded):
        raise ValueError("run lengths must end where the image does, and polygons need three pairs of x and y or more")
    return foreground.astype(bool)
