"""Published figures of the paper's seven models, which are shown beside measured ones."""

import json
from importlib.resources import files


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
