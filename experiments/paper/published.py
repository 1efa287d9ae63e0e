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
