"""Ablations of the paper's method by name: options to set."""

from typing import Any


# Tables 4 and 12 of https://huggingface.co/papers/2206.01161 to `ground-truth`. `later-layers` is half of the 12 layers of a
# base or small model.
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "no-confidence": {"confidence_weight": 0.0},
    "no-background": {"background_weight": 0.0},
    "no-foreground": {"foreground_weight": 0.0},
    "ground-truth": {"confidence_target": "label"},
    "second-order": {"second_order": True},
    "bce": {"relevance_distance": "bce"},
    "label-free": {"relevance_target": "prediction"},
    "later-layers": {"start_layer": 6},
}
