"""Relevance maps against foreground masks, as a metric of `evaluate`; its card is `README.md`."""

# Modules, not classes: `evaluate` takes the first subclass of `Metric` that it finds in the names of a script.
from robust_vit_hf.results.metrics import evaluate_script
from robust_vit_hf.results.metrics import relevance_segmentation as computation


class RelevanceSegmentation(evaluate_script.ScriptMetric):
    metric_class = computation.RelevanceSegmentation
