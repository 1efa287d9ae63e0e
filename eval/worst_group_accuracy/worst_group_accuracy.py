"""Top-1 of the worst group, as a metric of `evaluate`; its card is `README.md`."""

# Modules, not classes: `evaluate` takes the first subclass of `Metric` that it finds in the names of a script.
from robust_vit_hf.metrics import base as evaluate_script
from robust_vit_hf.metrics import robust_accuracy as computation


class WorstGroupAccuracy(evaluate_script.ScriptMetric):
    metric_class = computation.WorstGroupAccuracy
    reference_url = "https://huggingface.co/papers/1911.08731"
    citation = """\
@inproceedings{sagawa2020distributionally,
  title={Distributionally Robust Neural Networks for Group Shifts},
  author={Sagawa, Shiori and Koh, Pang Wei and Hashimoto, Tatsunori B. and Liang, Percy},
  booktitle={International Conference on Learning Representations},
  year={2020}
}
"""
