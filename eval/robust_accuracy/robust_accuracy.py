"""Top-1 and top-5 accuracy, as a metric of `evaluate`; its card is `README.md`."""

# Modules, not classes: `evaluate` takes the first subclass of `Metric` that it finds in the names of a script.
from robust_vit_hf.metrics import base as evaluate_script
from robust_vit_hf.metrics import robust_accuracy as computation


class RobustAccuracy(evaluate_script.ScriptMetric):
    metric_class = computation.RobustAccuracy
