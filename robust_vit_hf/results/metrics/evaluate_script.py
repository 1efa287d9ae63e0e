"""Base class of the metric scripts in `eval/`: they wrap a streaming metric for `evaluate`."""

import inspect

import datasets
import evaluate
import numpy as np

from .streaming import StreamingMetric, to_numpy


class ScriptMetric(evaluate.Metric):
    """`evaluate` metric computed by a [`StreamingMetric`].

    Scripts subclass it with `metric_class`, whose settings are arguments of `evaluate.load`. `evaluate` stores the
    reduced images: `predictions` is a struct of the numbers from [`StreamingMetric.reduce`], `references` says whether
    the image counts, and, in the configuration `groups` of metrics with groups, `groups` is a string.
    """

    metric_class: type[StreamingMetric]
    citation: str = """\
@inproceedings{chefer2022optimizing,
  title={Optimizing Relevance Maps of Vision Transformers Improves Robustness},
  author={Chefer, Hila and Schwartz, Idan and Wolf, Lior},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}
"""
    reference_url: str = "https://huggingface.co/papers/2206.01161"

    def _info(self):
        columns = {column: datasets.Value(dtype) for column, dtype in self.metric_class.columns.items()}
        features = {"predictions": columns, "references": datasets.Value("bool")}
        if self.config_name == "groups":
            features["groups"] = datasets.Value("string")
        documented = (self.metric_class.reduce, self.metric_class.scores)
        return evaluate.MetricInfo(
            description=inspect.getdoc(self.metric_class),
            citation=self.citation,
            inputs_description="\n\n".join(map(inspect.getdoc, documented)),
            features=datasets.Features(features),
            reference_urls=[self.reference_url],
        )

    def __init__(self, *args, **kwargs):
        own = inspect.signature(self.metric_class).parameters
        settings = {name: kwargs.pop(name) for name in own if name in kwargs}
        # The base class ignores unknown keywords.
        if unknown := sorted(kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys()):
            known = ", ".join(own) or "none of its own"
            raise TypeError(f"{self.metric_class.__name__} has no setting {', '.join(unknown)}: it has {known}")
        self.metric = self.metric_class(**settings)
        super().__init__(*args, **kwargs)

    def add_batch(self, *, predictions=None, references=None, **groups):
        """Add images, reduced to a few numbers each. A batch that raises an error is not added."""
        images = self.metric.reduce(predictions, references, first_image=len(self), **groups)
        groups = {name: images.pop("group").tolist() for name in groups}
        usable = images.pop("usable").tolist()
        columns = [column.tolist() for column in images.values()]
        rows = [dict(zip(images, row, strict=True)) for row in zip(*columns, strict=True)]
        super().add_batch(predictions=rows, references=usable, **groups)

    def add(self, *, prediction=None, reference=None, **groups):
        """Add one image."""
        # evaluate.combine uses the plural names here, too.
        image = {"predictions": prediction, "references": reference, **groups}
        image["predictions"] = to_numpy(image["predictions"])
        self.add_batch(**{name: value[None] if name == "predictions" else [value] for name, value in image.items()})

    def _compute(self, predictions, references, groups=None):
        images = {name: np.array([row[name] for row in predictions]) for name in self.features["predictions"]}
        images |= {} if groups is None else {"group": np.array(groups, dtype=object)}
        return self.metric.summarize(images | {"usable": np.array(references, dtype=bool)})
