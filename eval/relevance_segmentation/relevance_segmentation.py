"""Relevance maps against foreground masks, as a metric of `evaluate`; its card is `README.md`."""

# Modules, not classes: `evaluate` takes the first subclass of `Metric` that it finds in the names of a script.
from robust_vit_hf.metrics import base as evaluate_script
from robust_vit_hf.metrics import relevance_segmentation as computation


class RelevanceSegmentation(evaluate_script.ScriptMetric):
    metric_class = computation.RelevanceSegmentation
