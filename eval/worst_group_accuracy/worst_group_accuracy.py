"""Top-1 of the worst group, as a metric of `evaluate`; its card is `README.md`."""

import inspect
import math

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Top-1 accuracy of groups of images, of the worst group, and on average.
"""

_KWARGS_DESCRIPTION = """
Args:
    group_weights: of `evaluate.load`; weight of each group in the average, 0 or more, such as its share of the
        training images. By default all groups count the same.
    predictions: logits or probabilities `(N, C)`, floating point, of which the lower id is predicted among equals; or
        ids of the predicted classes `(N,)`, integers.
    references: ids `(N,)`; lists of accepted ids, empty for an image that does not count; or these as an array
        `(N, m)`, padded with -1.
    groups: names `(N,)`.

Returns:
    `worst_group_top1` and `worst_group`, its name; `average_top1`, weighted by group; `top1`, of all images;
    `per_group_top1` (by name, ascending); `num_images`, and `num_excluded`, which have no accepted id.

Raises:
    ValueError: NaN logits (names the image, and does not add the batch); other types or lengths; no image has an
        accepted id; a group without a weight, or with a negative or infinite one, or none above 0.

Examples:
    >>> accuracy = evaluate.load("eval/worst_group_accuracy")
    >>> places = ["land", "land", "water", "water"]
    >>> results = accuracy.compute(predictions=[0, 1, 1, 1], references=[0, 0, 1, 1], groups=places)
    >>> results["worst_group_top1"], results["worst_group"]
    (0.5, 'land')
"""

_CITATION = """\
@inproceedings{sagawa2020distributionally,
  title={Distributionally Robust Neural Networks for Group Shifts},
  author={Sagawa, Shiori and Koh, Pang Wei and Hashimoto, Tatsunori B. and Liang, Percy},
  booktitle={International Conference on Learning Representations},
  year={2020}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class WorstGroupAccuracy(evaluate.Metric):
    def __init__(self, *args, group_weights=None, **kwargs):
        if unknown := kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys():
            raise TypeError(f"unknown settings: {', '.join(unknown)}")  # which the base class would ignore
        super().__init__(*args, **kwargs)
        self.group_weights = {str(name): weight for name, weight in (group_weights or {}).items()}
        if bad := [name for name, weight in self.group_weights.items() if not 0 <= weight < math.inf]:
            raise ValueError(f"the weight of the group {bad[0]} is {self.group_weights[bad[0]]}: expected 0 or more")

    def _info(self):
        ids = datasets.Value("int64")
        columns = {"predictions": ids, "references": datasets.Sequence(ids), "groups": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(columns),
            reference_urls=["https://huggingface.co/papers/1911.08731"],
        )

    def add_batch(self, *, predictions=None, references=None, groups=None):
        """Add images, of which the predicted id, the accepted ids and the group are kept."""
        values = np.asarray(predictions.tolist() if hasattr(predictions, "tolist") else predictions)
        if values.dtype.kind == "f" and values.size:
            if (bad := np.isnan(values).any(axis=1)).any():
                raise ValueError(f"the logits of image {len(self) + int(bad.argmax())} are NaN: look at the image")
            values = values.argmax(axis=1)  # the first among equals
        names = np.asarray(groups, object).tolist()
        if any(name is None or name != name for name in names):
            raise ValueError(f"groups: expected a name for each image, but got {names}")
        accepted = [[class_id for class_id in np.ravel(ids).tolist() if class_id != -1] for ids in references]
        super().add_batch(predictions=values, references=accepted, groups=[*map(str, names)])

    def add(self, *, prediction=None, reference=None, groups=None):
        """Add one image."""
        predictions = prediction[None] if hasattr(prediction, "shape") else [prediction]
        self.add_batch(predictions=predictions, references=[reference], groups=[groups])

    def _compute(self, predictions, references, groups):
        right: dict[str, list[bool]] = {}
        for best, accepted, name in zip(predictions, references, groups, strict=True):
            if accepted:
                right.setdefault(name, []).append(best in accepted)
        by_group = {name: sum(right[name]) / len(right[name]) for name in sorted(right)}
        weights = [self.group_weights.get(name, math.nan) if self.group_weights else 1.0 for name in by_group]
        if not sum(weights) > 0:
            raise ValueError(
                f"expected a weight for each of {[*by_group]}, some above 0, but got {self.group_weights}"
            )
        worst, num_images = min(by_group, key=by_group.get), sum(map(len, right.values()))
        return {
            "worst_group_top1": by_group[worst],
            "worst_group": worst,
            "average_top1": float(np.average(list(by_group.values()), weights=weights)),
            "top1": sum(map(sum, right.values())) / num_images,
            "per_group_top1": by_group,
            "num_images": num_images,
            "num_excluded": len(references) - num_images,
        }
