"""Figures that the paper publishes, beside which measured ones are shown, and its names of sets."""

import json
from functools import cache
from importlib.resources import files


# Sets in the order of the paper's Tables 1 and 2, with the names that these give them.
PAPER_SETS = {
    "imagenet-1k": "INet val",
    "imagenet-a": "INet-A",
    "imagenet-r": "INet-R",
    "imagenet-sketch": "Sketch",
    "imagenet-v2": "INet-v2",
    "objectnet": "ObjNet",
    "si-score-location": "SI-location",
    "si-score-rotation": "SI-rotation",
    "si-score-size": "SI-size",
}
UNSHIFTED = ("imagenet-1k", "imagenet-v2")  # of these, those of ImageNet's distribution
SYNTHETIC = (
    "si-score-location",
    "si-score-rotation",
    "si-score-size",
    "location",
    "rotation",
    "size",
)  # as in Table 2


def title_of(name: str) -> str:
    """Name of a set in a table."""
    return PAPER_SETS.get(name, name.replace("_", " "))


@cache
def published_models() -> dict[str, dict]:
    """Figures in per cent by the paper's name of the model (`ViT-B`), protocol, version, set and score. A pair is a mean and a
    standard deviation.

    Versions are `original` and `finetuned`, both also with `-training-classes` and `-other-classes`; `full-loss` with its
    ablations; `unsupervised-masks`, `gradmask` and `rrr`. `published.json` names the sources."""
    return json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))["models"]


def published_cell(entry: dict | None, protocol: str, version: str, set_name: str, scores: tuple[str, ...]) -> str:
    """Figures of one set and one of [`published_models`] as text, such as `80.3±0.1 95.4±0.0`; empty if there are none."""
    figures = ((entry or {}).get(protocol, {}).get(version, {})).get(set_name, {})
    values = [figures[score] for score in scores if score in figures]
    return " ".join(f"{v[0]:.1f}±{v[1]:.1f}" if isinstance(v, list) else f"{v:.1f}" for v in values)
