"""Expected calibration error, negative log-likelihood and Brier score, as a metric of `evaluate`; its card is `README.md`."""

# Modules, not classes: `evaluate` takes the first subclass of `Metric` that it finds in the names of a script.
from robust_vit_hf.metrics import base as evaluate_script
from robust_vit_hf.metrics import calibration as computation


class Calibration(evaluate_script.ScriptMetric):
    metric_class = computation.Calibration
    reference_url = "https://huggingface.co/papers/1706.04599"
    citation = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={International Conference on Machine Learning},
  year={2017}
}
"""
