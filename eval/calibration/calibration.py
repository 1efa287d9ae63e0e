"""Expected calibration error, negative log-likelihood and Brier score, as a metric of `evaluate`; its card is `README.md`."""

# Modules, not classes: `evaluate` takes the first subclass of `Metric` that it finds in the names of a script.
from robust_vit_hf.metrics import calibration as computation
from robust_vit_hf.metrics import evaluate_script


class Calibration(evaluate_script.ScriptMetric):
    metric_class = computation.Calibration
