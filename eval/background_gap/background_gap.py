"""BG-Gap and Object Focus, as a metric of `evaluate`; its card is `README.md`."""

import inspect

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Accuracy by condition of the Backgrounds Challenge (https://huggingface.co/papers/2006.09994), BG-Gap and Object Focus.
"""

_KWARGS_DESCRIPTION = """
Args:
    class_subset: of `evaluate.load`; ids of the classes to which logits are restricted. By default all.
    predictions: logits or probabilities `(N, C)`, floating point, of which the lower id is predicted among equals; or
        ids of the predicted classes `(N,)`, integers.
    references: ids `(N,)`; lists of accepted ids, empty for an image that does not count; or these as an array
        `(N, m)`, padded with -1.
    groups: names `(N,)` of the conditions: `mixed_same`, `mixed_rand`, and any others, such as `original`.

Returns:
    `bg_gap`, top-1 of `mixed_same` minus top-1 of `mixed_rand`, from -1 to 1; `object_focus`, 1 - BG-Gap / top-1 of
    `original` (`None` without such images, or if none is right; https://github.com/visinf/beyond-accuracy divides by
    top-1 on ImageNet instead); `top1` and `num_images` by condition.

Raises:
    ValueError: NaN logits (names the image, and does not add the batch); other types or lengths; no image of
        `mixed_same` or of `mixed_rand` has an accepted id.

Examples:
    >>> gap = evaluate.load("eval/background_gap")
    >>> conditions = ["original"] * 2 + ["mixed_same"] * 2 + ["mixed_rand"] * 2
    >>> results = gap.compute(predictions=[0, 1, 0, 1, 0, 0], references=[0, 1, 0, 1, 0, 1], groups=conditions)
    >>> results["bg_gap"], results["object_focus"]
    (0.5, 0.5)
"""

_CITATION = """\
@inproceedings{xiao2021noise,
  title={Noise or Signal: The Role of Image Backgrounds in Object Recognition},
  author={Xiao, Kai and Engstrom, Logan and Ilyas, Andrew and Madry, Aleksander},
  booktitle={International Conference on Learning Representations},
  year={2021}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BackgroundGap(evaluate.Metric):
    def __init__(self, *args, class_subset=None, **kwargs):
        if unknown := kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys():
            raise TypeError(f"unknown settings: {', '.join(unknown)}")  # which the base class would ignore
        super().__init__(*args, **kwargs)
        self.class_subset = class_subset

    def _info(self):
        ids = datasets.Value("int64")
        columns = {"predictions": ids, "references": datasets.Sequence(ids), "groups": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(columns),
            reference_urls=["https://huggingface.co/papers/2006.09994"],
        )

    def add_batch(self, *, predictions=None, references=None, groups=None):
        """Add images, of which the predicted id, the accepted ids and the condition are kept."""
        values = np.asarray(predictions.tolist() if hasattr(predictions, "tolist") else predictions)
        if values.dtype.kind == "f" and values.size:
            if (bad := np.isnan(values).any(axis=1)).any():
                raise ValueError(f"the logits of image {len(self) + int(bad.argmax())} are NaN: look at the image")
            classes = np.arange(values.shape[1]) if self.class_subset is None else np.unique(self.class_subset)
            values = classes[values[:, classes].argmax(axis=1)]  # argmax takes the first among equals
        accepted = [[class_id for class_id in np.ravel(ids).tolist() if class_id != -1] for ids in references]
        super().add_batch(predictions=values, references=accepted, groups=groups)

    def add(self, *, prediction=None, reference=None, groups=None):
        """Add one image."""
        predictions = prediction[None] if hasattr(prediction, "shape") else [prediction]
        self.add_batch(predictions=predictions, references=[reference], groups=[groups])

    def _compute(self, predictions, references, groups):
        right: dict[str, list[bool]] = {}
        for best, accepted, name in zip(predictions, references, groups, strict=True):
            if accepted:
                right.setdefault(name, []).append(best in accepted)
        if missing := {"mixed_same", "mixed_rand"} - right.keys():
            raise ValueError(f"groups: expected images of {' and '.join(sorted(missing))}, but got {sorted(right)}")
        top1 = {name: sum(right[name]) / len(right[name]) for name in sorted(right)}
        gap, original = top1["mixed_same"] - top1["mixed_rand"], top1.get("original")
        return {
            "bg_gap": gap,
            "object_focus": 1 - gap / original if original else None,
            "top1": top1,
            "num_images": {name: len(right[name]) for name in top1},
        }
