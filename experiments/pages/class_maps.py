"""How well both kinds of maps show the object: a table of experiments/architectures.md (class_maps.json)."""

from collections.abc import Callable

from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark


def class_maps() -> str:
    rows = []
    for model, scores in benchmark("class_maps")["scores"].items():
        name, _, head = model.partition(", ")
        made = ["only the centre", "–", "–"] if name == "centre" else [scores["map"], name, head or "its own head"]
        rows.append([*made, *(f"{100 * scores[key]:.0f}" for key in ("pointing_game", "mean_iou"))])
    return Table("", ["map", "model", "head", "maximum on the object", "mIoU"], rows).markdown()


BLOCKS: dict[str, Callable[[], str]] = {"class maps": class_maps}
