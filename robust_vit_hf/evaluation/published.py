"""Published figures of the paper's seven models, to be shown beside what is measured."""

import json
from importlib.resources import files


def published_models() -> dict[str, dict]:
    """By the paper's name of the model (`ViT-B`), by protocol, and then `original` or `finetuned`, the figures of each set in
    per cent by name of the score. A pair is a mean and a standard deviation.

    Sources are in the file itself, `published.json`.
    """
    return json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))["models"]


def published_cell(entry: dict | None, protocol: str, version: str, set_name: str, scores: tuple[str, ...]) -> str:
    """Figures of one set as text, such as `80.3±0.1 95.4±0.0`; nothing where there are none.

    Args:
        entry: one of [`published_models`].
        version: `original` or `finetuned`.
    """
    figures = ((entry or {}).get(protocol, {}).get(version, {})).get(set_name, {})
    values = [figures[score] for score in scores if score in figures]
    return " ".join(f"{v[0]:.1f}±{v[1]:.1f}" if isinstance(v, list) else f"{v:.1f}" for v in values)
