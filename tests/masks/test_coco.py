"""Masks from COCO annotations: every kind of annotation, and every way in which a file can be wrong."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from robust_vit_hf.masks.coco import CocoAnnotations

from ..helpers import layouts
from ..helpers.commands import call


WIDTH, HEIGHT = 30, 20
POLYGON = [2, 3, 12, 3, 12, 9, 2, 9]
BOX = [20, 10, 5, 6]


def disc() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (x - 15) ** 2 + (y - 10) ** 2 < 30


def rle(mask: np.ndarray, compressed: bool) -> dict:
    encoded = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]))).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, flat.size]).tolist()}


def content(**changes) -> dict:
    names = ["a/0.jpg", "a/1.jpg", "b/1.jpg", "2.jpg"]
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    annotations = [
        {"id": 0, "image_id": 0, "category_id": 7, "bbox": BOX},
        {"id": 1, "image_id": 0, "category_id": 9, "bbox": [0, 0, 30, 20], "segmentation": [POLYGON]},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": BOX, "segmentation": []},
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories} | changes


def write(tmp_path, data) -> str:
    path = tmp_path / "annotations.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


def masks(path: str, *names: str, category: str | None = None):
    images = [Image.new("RGB", (WIDTH, HEIGHT))] * len(names)
    return CocoAnnotations(path, category)(images, [{"file_name": name} for name in names])


def array(result) -> np.ndarray:
    assert result.mask.mode == "L" and result.mask.size == (WIDTH, HEIGHT)
    values = np.asarray(result.mask)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[top:bottom, left:right] = True
    return expected


def test_union_of_a_box_and_a_polygon(tmp_path):
    (result,) = masks(write(tmp_path, content()), "a/0.jpg")
    np.testing.assert_array_equal(array(result), rectangle(2, 3, 12, 9) | rectangle(20, 10, 25, 16))
    assert result.note == "dog, cat" and result.rejected is None


def test_only_one_category(tmp_path):
    path = write(tmp_path, content())
    dog, other = masks(path, "a/0.jpg", "a/1.jpg", category="dog")
    np.testing.assert_array_equal(array(dog), rectangle(20, 10, 25, 16))
    np.testing.assert_array_equal(array(other), rectangle(20, 10, 25, 16))
    cat, none = masks(path, "a/0.jpg", "a/1.jpg", category="cat")
    np.testing.assert_array_equal(array(cat), rectangle(2, 3, 12, 9))
    assert none.mask is None and none.rejected == "no annotation of `cat`"
    with pytest.raises(ValueError, match="has no category `bird`; it has dog, cat"):
        masks(path, "a/0.jpg", category="bird")


@pytest.mark.parametrize(
    "annotation, expected",
    [
        ({"segmentation": rle(disc(), compressed=True)}, disc()),
        ({"segmentation": rle(disc(), compressed=False)}, disc()),
        ({"bbox": [1.6, 2.5, 2, 40]}, rectangle(2, 2, 4, HEIGHT)),  # the pixels whose centres it holds
        ({"bbox": [50, 50, 5, 5]}, rectangle(0, 0, 0, 0)),  # outside the image
    ],
)
def test_pixels_of_an_annotation(tmp_path, annotation, expected):
    annotations = [{"image_id": 0, "category_id": 7} | annotation]
    (result,) = masks(write(tmp_path, content(annotations=annotations)), "a/0.jpg")
    np.testing.assert_array_equal(array(result), expected)
    assert result.rejected == (None if expected.any() else "the annotations cover no pixel")


def test_names_without_their_folder(tmp_path):
    """As a data set may hold another path than the annotations."""
    path = write(tmp_path, content())
    exact, elsewhere, ambiguous, absent, empty = masks(path, "a/1.jpg", "/data/a/0.jpg", "1.jpg", "x/3.jpg", "2.jpg")
    np.testing.assert_array_equal(array(exact), rectangle(20, 10, 25, 16))
    np.testing.assert_array_equal(array(elsewhere), rectangle(2, 3, 12, 9) | rectangle(20, 10, 25, 16))
    assert ambiguous.mask is None and "several entries end with it" in ambiguous.rejected
    assert absent.mask is None and "`x/3.jpg` is not" in absent.rejected
    assert empty.mask is None and empty.rejected == "no annotation"


def named(*names: str) -> dict:
    """A file with an annotated image of each name; their masks are of different widths."""
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    boxes = [{"image_id": i, "category_id": 7, "bbox": [0, 0, i + 1, HEIGHT]} for i in range(len(names))]
    return content(images=images, annotations=boxes)


def test_names_from_the_root(tmp_path):
    """The longest end of a path decides; an image of another folder has no mask, and a part of a folder's name is no folder."""
    path = write(
        tmp_path, named("train/cat/000.jpg", "train/dog/000.jpg", "val\\dog\\1.jpg", "train/dog/1.jpg", "000.jpg")
    )
    names = ("cat/000.jpg", "set/train/dog/000.jpg", "dog/1.jpg", "dog/2.jpg", "fox/1.jpg", "x/000.jpg")
    cat, dog, both, none, other, at_root = masks(path, *names)
    np.testing.assert_array_equal(array(cat), rectangle(0, 0, 1, HEIGHT))
    np.testing.assert_array_equal(array(dog), rectangle(0, 0, 2, HEIGHT))
    np.testing.assert_array_equal(array(at_root), rectangle(0, 0, 5, HEIGHT))
    assert all("or several entries end with it" in result.rejected for result in (both, none, other))


def test_an_entry_is_of_one_image(tmp_path):
    rows = [{"file_name": f"{name}/000.jpg"} for name in ("cat", "dog")]
    with pytest.raises(ValueError, match=r"cat/000\.jpg` and `dog/000\.jpg` would both have"):
        [*CocoAnnotations(write(tmp_path, named("000.jpg"))).claimed(rows)]
    for row in rows:
        layouts.save(Image.new("RGB", (WIDTH, HEIGHT)), tmp_path / "photos" / row["file_name"])
    options = ("--annotations", tmp_path / "annotations.json", "--output_dir", tmp_path / "out")
    assert "would both have" in call("masks", "coco", "--images", tmp_path / "photos", *options).error
    maker = CocoAnnotations(write(tmp_path, named("cat/000.jpg", "dog/000.jpg")))
    assert [*maker.claimed(rows)] == rows


def test_another_image_size_is_refused(tmp_path):
    maker = CocoAnnotations(write(tmp_path, content()))
    with pytest.raises(
        ValueError, match=r"`a/0\.jpg` has 20×30 pixels, but .* says 30×20.*neither resized nor rotated"
    ):
        maker([Image.new("RGB", (HEIGHT, WIDTH))], [{"file_name": "a/0.jpg"}])


@pytest.mark.parametrize(
    "annotation, problem",
    [
        ({"segmentation": [[1, 1, 2, 2, 3, 3, 4]]}, "three pairs of x and y"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "end where the image does"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "abcd"}}, "Invalid RLE"),
        ({}, "bbox"),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path, annotation, problem):
    path = write(tmp_path, content(annotations=[{"id": 5, "image_id": 0, "category_id": 7} | annotation]))
    with pytest.raises(ValueError, match=rf"annotation of `a/0\.jpg` .*id 5.*cannot be read: .*{problem}.*Expected a"):
        masks(path, "a/0.jpg")


@pytest.mark.parametrize(
    "data, problem",
    [
        ("{", "JSONDecodeError"),
        (content(images=[{"id": 0, "file_name": "a.jpg"}]), "width"),
        (content(images=2 * content()["images"][:1]), "twice"),
    ],
)
def test_files_that_are_not_coco(tmp_path, data, problem):
    path = write(tmp_path, data)
    with pytest.raises(ValueError, match=problem) as error:
        CocoAnnotations(path)
    assert path in str(error.value)
