"""BG-Gap and Object Focus, as a metric of `evaluate`; its card is `README.md`."""

# Modules, not classes: `evaluate` takes the first subclass of `Metric` that it finds in the names of a script.
from robust_vit_hf.metrics import base as evaluate_script
from robust_vit_hf.metrics import robust_accuracy as computation


class BackgroundGap(evaluate_script.ScriptMetric):
    metric_class = computation.BackgroundGap
    reference_url = "https://huggingface.co/papers/2006.09994"
    citation = """\
@inproceedings{xiao2021noise,
  title={Noise or Signal: The Role of Image Backgrounds in Object Recognition},
  author={Xiao, Kai and Engstrom, Logan and Ilyas, Andrew and Madry, Aleksander},
  booktitle={International Conference on Learning Representations},
  year={2021}
}
"""
