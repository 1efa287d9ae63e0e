"""Ablations of the paper's method by name: options that override those of `robustvit`."""

from typing import Any


# Tables 4 and 12 of https://huggingface.co/papers/2206.01161 to `ground-truth`. `start-layer` is half of the 12 layers
# of a base or small model.
ABLATIONS: dict[str, dict[str, Any]] = {
    "without-confidence": {"confidence_weight": 0.0},
    "without-background": {"background_weight": 0.0},
    "without-foreground": {"foreground_weight": 0.0},
    "ground-truth": {"confidence_target": "label"},
    "second-order": {"second_order": True},
    "bce": {"relevance_distance": "bce"},
    "label-free": {"relevance_target": "prediction"},
    "start-layer": {"start_layer": 6},
}
