"""Published figures of the paper, shown beside measured ones."""

import json
from functools import cache
from importlib.resources import files


BASE_MODELS = ("ViT-B", "AR-B", "DeiT-B")  # which Tables 10 and 11 and Figure 4 average


@cache
def published_models(kind: str = "models") -> dict[str, dict]:
    """Published values in per cent by the paper's name of the model (`ViT-B`), protocol, version (such as `original` and
    `finetuned-one-run`), set and score. Pairs are mean and standard deviation. Of the kind `object_focus`, a value for each model.
    `published.json` names the sources."""
    return json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))[kind]


def published_cell(entry: dict | None, protocol: str, version: str, set_name: str, scores: tuple[str, ...]) -> str:
    """Published values of a model on a set as text, such as `80.3±0.1 95.4±0.0`; empty if there are none."""
    figures = ((entry or {}).get(protocol, {}).get(version, {})).get(set_name, {})
    values = [figures[score] for score in scores if score in figures]
    return " ".join(f"{v[0]:.1f}±{v[1]:.1f}" if isinstance(v, list) else f"{v:.1f}" for v in values)
