"""The metrics as scripts of `evaluate` and as streaming classes, and data for them."""

from uuid import uuid4

import evaluate
import numpy as np
from scipy.special import softmax

from robust_vit_hf.metrics.streaming import Calibration, RelevanceSegmentation, RobustAccuracy

from .tiny import ROOT


CLASSES = {
    "robust_accuracy": RobustAccuracy,
    "relevance_segmentation": RelevanceSegmentation,
    "calibration": Calibration,
}
OF_GROUPS = ("background_gap", "worst_group_accuracy")
SCRIPTS = (*CLASSES, *OF_GROUPS)


def load(name: str, *configuration, **settings):
    """The script, with a cache file of its own: `evaluate` waits a second for one that another metric holds."""
    return evaluate.load(str(ROOT / "eval" / name), *configuration, **{"experiment_id": uuid4().hex} | settings)


def streaming(name: str, **settings):
    return CLASSES[name](**settings)


def add(metric, **columns) -> None:
    (metric.add_batch if hasattr(metric, "add_batch") else metric.update)(**columns)


def in_batches(metric, size: int, **columns) -> dict:
    """Result of adding the columns in batches."""
    for start in range(0, len(columns["predictions"]), size):
        add(metric, **{name: column[start : start + size] for name, column in columns.items()})
    return metric.compute()


def noise(count: int = 130, num_classes: int = 12, seed: int = 0):
    """Logits with many ties, and lists of accepted ids of which some are empty."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-4, 5, (count, num_classes)) / 2
    references = [rng.choice(num_classes, rng.integers(0, 4), replace=False).tolist() for _ in range(count)]
    return logits, references


def maps(count: int = 7, size: int = 16, seed: int = 0):
    """Relevance maps, of which every other has few levels, and masks of which one is empty and one full."""
    rng = np.random.default_rng(seed)
    relevance = rng.normal(size=(count, size, size))
    relevance[::2] = np.round(relevance[::2])
    masks = rng.random((count, size, size)) < rng.random((count, 1, 1))
    masks[1], masks[2] = False, True
    return relevance, masks


def within(references: list[list[int]], subset) -> list[list[int]]:
    """Accepted ids of which some lie in a class subset wherever there are any: others are refused."""
    return [ids if not ids or set(ids) & set(subset) else [subset[0]] for ids in references]


def example(name: str, **settings) -> dict:
    """Columns that a metric with these settings takes."""
    predictions, references = maps() if name == "relevance_segmentation" else noise()
    if "class_subset" in settings:
        references = within(references, settings["class_subset"])
    if not settings.get("from_logits", True):
        predictions = softmax(predictions, axis=1)
    return {"predictions": predictions, "references": references}
