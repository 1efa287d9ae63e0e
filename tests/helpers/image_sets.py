"""Sets of the paper, loaded as users load them."""

from pathlib import Path

from robust_vit_hf import load_image_set

from . import formats
from .tiny import GOLDFISH, STINGRAY, TENCH


def both_ways(name: str, source=None, **options) -> list[dict]:
    """Rows of a set, after checking that streaming gives the same as the table."""
    table = load_image_set(name, source, **options)
    stream = load_image_set(name, source, streaming=True, **options)
    assert dict(table.features) == dict(stream.features)
    for row, streamed in zip(table, stream, strict=True):
        assert row["image"].tobytes() == streamed["image"].tobytes()
        assert {**row, "image": None} == {**streamed, "image": None}
    return list(table)


def labels_and_names(rows: list[dict]) -> list[tuple]:
    return [(row["label"], row["file_name"]) for row in rows]


def miniatures(root: Path) -> dict[str, Path]:
    """Every evaluation set of the paper in its official layout, with 4 to 6 images, by name."""
    folders = {
        "imagenet-1k": formats.class_folders(root / "imagenet" / "val", {TENCH: 3, GOLDFISH: 2}, ".JPEG").parent,
        "imagenet-a": formats.class_folders(root / "a", {STINGRAY: 4}),
        "imagenet-r": formats.class_folders(root / "r", {GOLDFISH: 4}),
        "imagenet-sketch": formats.class_folders(root / "sketch", {TENCH: 2, GOLDFISH: 2}),
        "imagenet-v2": formats.class_folders(root / "v2", {"0": 2, "10": 1, "2": 2}),
        "objectnet": formats.objectnet(root / "objectnet-1.0"),
    }
    for name, folder in (("location", "location20_area02_min0pc"), ("rotation", "rotation"), ("size", "area")):
        folders[f"si-score-{name}"] = formats.si_score(root / name / folder, {"koala": 4, "wok": 2})
    return folders
