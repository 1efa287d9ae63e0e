"""Foreground masks from existing annotations: boxes, polygons and run-length encodings in COCO's JSON format.

Source: https://cocodataset.org/#format-data
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from .mask_result import MaskResult


class CocoAnnotations:
    """Masks from the union of an image's annotations.

    Args:
        path: JSON file with `images`, `annotations` and `categories`, as COCO's `instances_….json`.
        category: name of the foreground category; all by default.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a COCO file, or lacks the category.
    """

    def __init__(self, path: str | Path, category: str | None = None):
        self.path = path
        try:
            content = json.loads(Path(path).read_bytes())
        except ValueError as error:  # invalid JSON or UTF-8
            raise ValueError(f"`{path}` cannot be read as JSON: {error}. Expected a COCO annotation file.") from error
        if not isinstance(content, dict):
            raise ValueError(f"`{path}` holds a {type(content).__name__}, expected an object with COCO's `images`.")
        images = self._entries(content, "images", ("id", "file_name", "width", "height"))
        annotations = self._entries(content, "annotations", ("image_id", "category_id"))
        categories = self._entries(content, "categories", ("id", "name"))

        self.category_names = {entry["id"]: entry["name"] for entry in categories}
        if category is not None and category not in self.category_names.values():
            known = ", ".join(self.category_names.values())
            raise ValueError(f"`{path}` has no category `{category}`; it has {known}.")
        self.by_image = defaultdict(list)
        for annotation in annotations:
            if category is None or self.category_names.get(annotation["category_id"]) == category:
                self.by_image[annotation["image_id"]].append(annotation)
        self.sought = "annotation" if category is None else f"annotation of `{category}`"
        self.by_name, self.by_basename = {}, defaultdict(list)
        for entry in images:
            if entry["file_name"] in self.by_name:
                raise ValueError(f"`{path}` lists the image `{entry['file_name']}` twice, expected once.")
            self.by_name[entry["file_name"]] = entry
            self.by_basename[PurePosixPath(entry["file_name"]).name].append(entry)
        self.owners: dict[object, str] = {}  # the image that has an entry's annotations, by the entry's id

    def _entries(self, content: dict, key: str, fields: tuple[str, ...]) -> list[dict]:
        """A list in the file; every entry must have these fields."""
        entries = content.get(key)
        if not isinstance(entries, list):
            raise ValueError(
                f"`{self.path}` has no list `{key}`; it has {', '.join(content) or 'no keys'}. Expected COCO's keys "
                "`images`, `annotations` and `categories`."
            )
        for index, entry in enumerate(entries):
            missing = [field for field in fields if not isinstance(entry, dict) or field not in entry]
            if missing:
                raise ValueError(
                    f"`{self.path}`: number {index} of `{key}` has no {', '.join(f'`{field}`' for field in missing)}, "
                    f"expected {', '.join(f'`{field}`' for field in fields)}."
                )
        return entries

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of images of any sizes, in order. Images without an annotation are rejected.

        Args:
            rows: rows of the images. `file_name` is looked up with its folder, or else the only entry whose path ends
                with it, or with which it ends. An absolute `file_name` may be in another folder. An entry is of the
                first image alone.

        Raises:
            ValueError: a row has no `file_name`, an image's size differs from the file, or an annotation cannot be
                read.
        """
        return [self._mask(image, row) for image, row in zip(images, rows, strict=True)]

    def claimed(self, rows: Iterable[dict]) -> Iterator[dict]:
        """Rows in the order of the source, by which the first of two images has an entry, whatever process or run
        makes its mask.

        Raises:
            ValueError: two images of one `file_name` have an entry.
        """
        names = set()
        for row in rows:
            name = row.get("file_name")
            entry = self._entry(name) if isinstance(name, str) else None
            if isinstance(entry, dict):
                if name in names:
                    raise ValueError(
                        f"Two images have the `file_name` `{name}`, and `{self.path}` does not tell which one it "
                        "annotates: give images whose names have their folder."
                    )
                names.add(name)
                self.owners.setdefault(entry["id"], name)
            yield row

    def _entry(self, name: str) -> dict | str:
        """Entry of an image, by its name alone, or why there is none."""
        if name in self.by_name:
            return self.by_name[name]
        path, by_length = PurePosixPath(name), defaultdict(list)
        for entry in self.by_basename.get(path.name, []):
            parts = PurePosixPath(entry["file_name"]).parts
            equal = [one == other for one, other in zip(path.parts[::-1], parts[::-1], strict=False)]
            length = [*equal, False].index(False)  # of the common end
            by_length[length].append((entry, path.is_absolute() or all(equal)))
        if not by_length:
            return f"`{name}` is not in `{self.path}`"
        (entry, fits), *others = by_length[max(by_length)]
        if others:
            return f"`{name}` is {len(others) + 1} times, in other folders, in `{self.path}`"
        return (
            entry if fits else f"`{name}` is not in `{self.path}`, whose `{entry['file_name']}` is in another folder"
        )

    def _mask(self, image: Image.Image, row: dict) -> MaskResult:
        name = row.get("file_name")
        if not isinstance(name, str):
            raise ValueError(
                f"A row has no `file_name` to look up its annotations in `{self.path}`; it has {', '.join(row)}."
            )
        entry = self._entry(name)
        if isinstance(entry, str):
            return MaskResult(None, rejected=entry)
        if (owner := self.owners.setdefault(entry["id"], name)) != name:
            return MaskResult(
                None,
                rejected=f"`{name}` would have the annotations of `{entry['file_name']}` in `{self.path}`, as "
                f"`{owner}` has",
            )
        if image.size != (entry["width"], entry["height"]):
            raise ValueError(
                f"`{name}` has {image.width}×{image.height} pixels, but `{self.path}` says {entry['width']}×"
                f"{entry['height']}. Annotations fit images of that size only: use the images that were annotated, "
                "neither resized nor turned."
            )
        annotations = self.by_image.get(entry["id"], [])
        if not annotations:
            return MaskResult(None, rejected=f"no {self.sought}")
        union = np.zeros((image.height, image.width), dtype=bool)
        for annotation in annotations:
            union |= self._foreground(annotation, name, union.shape)
        names = [str(self.category_names.get(annotation["category_id"], "unnamed")) for annotation in annotations]
        rejected = None if union.any() else "the annotations cover no pixel"
        return MaskResult.of(union, ", ".join(names), rejected)

    def _foreground(self, annotation: dict, name: str, shape: tuple[int, int]) -> np.ndarray:
        """Pixels `(H, W)`, bool, of one annotation."""
        height, width = shape
        segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
        try:
            if isinstance(segmentation, dict):
                counts = segmentation["counts"]
                if list(segmentation["size"]) != [height, width]:
                    raise ValueError(f"it is encoded for a height and width of {segmentation['size']}")
                if isinstance(counts, list):
                    if sum(counts) != height * width:
                        raise ValueError(f"its run lengths add up to {sum(counts)}, not {height * width}")
                    segmentation = run_lengths.frPyObjects(segmentation, height, width)
                foreground = run_lengths.decode(segmentation)
                # Pixels behind the end of a damaged encoding are uninitialised memory.
                if foreground.sum() != run_lengths.area(segmentation):
                    raise ValueError("its run lengths end before the image does")
                return foreground.astype(bool)
            if segmentation:
                # pycocotools reads four numbers as a box, and drops the last of an odd count.
                if any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
                    raise ValueError("a polygon needs three or more pairs of x and y")
                encoded = run_lengths.merge(run_lengths.frPyObjects(segmentation, height, width))
                return run_lengths.decode(encoded).astype(bool)
            left, top, box_width, box_height = map(float, box)
        except Exception as error:  # the decoder raises any type
            raise ValueError(
                f"An annotation of `{name}` ({width}×{height} pixels, id {annotation.get('id')}) in `{self.path}` cannot "
                f"be read: {error}. Expected a `segmentation` (polygons or run lengths) or a `bbox` of x, y, width and "
                "height."
            ) from error
        # The pixels whose centres lie in the box.
        x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        return (left <= x) & (x < left + box_width) & (top <= y) & (y < top + box_height)
