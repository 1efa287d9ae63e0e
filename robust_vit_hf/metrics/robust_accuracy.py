"""Top-1 and top-5 accuracy over images, classes and groups, as a metric of `evaluate`; its card is `README.md`."""

import inspect
from operator import index

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Top-1 and top-5 accuracy over images, classes and groups of images, with class subsets and several accepted ids.
"""

_KWARGS_DESCRIPTION = """
Args:
    config_name: of `evaluate.load`; "groups" if every image belongs to a group.
    class_subset: of `evaluate.load`; ids of the classes to which logits are restricted. By default all.
    predictions: logits or probabilities `(N, C)`, floating point, of which the lower id ranks first among equals; or
        ids, integers: of the predicted classes `(N,)`, or ranked `(N, k)`. If k is below 5, `top5` is left out.
    references: ids `(N,)`; lists of accepted ids, empty for an image that does not count; or these as an array
        `(N, m)`, padded with -1.
    groups: names `(N,)`, strings or numbers.

Returns:
    `top1` and `top5` (fractions of the images), `mean_per_class_top1`, `per_class_top1` (by the first id of an image),
    and the same for top-5; `mean_per_group_top1`, `per_group_top1`, … if there are groups; `num_images`, and
    `num_excluded`, which have no accepted id.

Raises:
    ValueError: NaN logits, or ids that do not exist, are not in the subset or come twice (names the image, and does
        not add the batch); other lengths, shapes or types; no image has an accepted id.

Examples:
    >>> robust_accuracy = evaluate.load("eval/robust_accuracy", class_subset=[0, 2])
    >>> results = robust_accuracy.compute(predictions=[[4.0, 9.0, 0.0], [1.0, 9.0, 2.0]], references=[0, [2, 1]])
    >>> results["top1"]
    1.0
"""

_CITATION = """\
@inproceedings{chefer2022optimizing,
  title={Optimizing Relevance Maps of Vision Transformers Improves Robustness},
  author={Chefer, Hila and Schwartz, Idan and Wolf, Lior},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}
"""

TOP = 5


def top_classes(logits: np.ndarray, class_subset=None, first_image: int = 0) -> np.ndarray:
    """Ids of the highest logits.

    Args:
        logits: `(N, C)`, floating point.
        class_subset: ascending ids of the classes to which logits are restricted; all by default.
        first_image: number of the first image in the whole set, for errors.

    Returns:
        `(N, 5)` int64, or `(N, C)` for fewer classes, highest first; among equals, the lower id first.
    """
    ids = np.arange(logits.shape[1]) if class_subset is None else np.asarray(class_subset)
    left = logits.take(ids, axis=1)
    bad = np.isnan(logits).any(axis=1) | (left.max(axis=1) == -np.inf)
    if bad.any():
        image = first_image + int(bad.argmax())
        raise ValueError(f"the logits of image {image} are NaN, or -inf for every class: look at it, or use float32")
    # Five calls of argmax are faster than sorting, and return the first of equal logits. A class is set to -inf after it.
    left, best = np.maximum(left, np.finfo(left.dtype).min), np.empty((len(left), min(TOP, len(ids))), int)
    for rank in range(best.shape[1]):
        best[:, rank] = left.argmax(axis=1)
        left[np.arange(len(left)), best[:, rank]] = -np.inf
    return ids[best]


def ranks(predictions, references) -> np.ndarray:
    """Rank `(N,)` int64 from 0 of the first accepted id in predictions `(N, k)`, best first; 5 if none is."""
    pairs = zip(predictions, references, strict=True)
    first = (next((rank for rank, best in enumerate(ids) if best in accepted), TOP) for ids, accepted in pairs)
    return np.fromiter(first, np.int64)


def reduce(predictions, references, class_subset=None, first_image: int = 0, groups=None) -> dict[str, list]:
    """Values kept of each image: up to five predicted ids of each, the accepted ids, and the name of its group.
    `first_image` is the number of the first in the set, for errors."""
    if hasattr(predictions, "detach"):  # a tensor, perhaps in bfloat16 or on another device
        predictions = predictions.detach().cpu()
        predictions = predictions.double() if predictions.is_floating_point() else predictions
    values, subset = np.asarray(predictions), None if class_subset is None else np.unique(class_subset)
    possible = None if subset is None else {*subset.tolist()}
    if values.size and (values.dtype.kind, values.ndim) not in {("f", 2), ("i", 1), ("i", 2), ("u", 1), ("u", 2)}:
        got = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"expected logits (N, C), or ids (N, k) or (N,), but got {got}. Names need a label_mapping")
    if values.size and values.dtype.kind == "f":
        classes = {*range(values.shape[1])}
        if not (possible := possible or classes) <= classes:
            raise ValueError(f"class_subset: expected ids of the {len(classes)} classes, but got {subset}")
        best = top_classes(values, subset, first_image)
        best = np.pad(best, [(0, 0), (0, TOP - best.shape[1])], constant_values=-1).tolist()
    else:
        best = [np.ravel(ids)[:TOP].tolist() for ids in values]
        for image, ids in enumerate(best, first_image):
            # Some are no ranking of classes, such as integer logits.
            if len({*ids}) < len(ids) or min(ids) < 0 or not (possible is None or possible.issuperset(ids)):
                raise ValueError(f"the predictions of image {image} are {ids}: expected different ids in class_subset")
    references = references.tolist() if hasattr(references, "tolist") else references
    accepted = [[index(class_id) for class_id in np.ravel(ids) if class_id != -1] for ids in references]
    for image, ids in enumerate(accepted, first_image):
        if ids and (min(ids) < 0 or (possible is not None and possible.isdisjoint(ids))):
            raise ValueError(f"the reference of image {image} is {ids}: expected the id of a class in class_subset")
    columns = {"predictions": best, "references": accepted}
    if groups is not None:
        names = np.asarray(groups, object).tolist()
        if any(name is None or name != name for name in names):
            raise ValueError(f"groups: expected a name for each image, but got {names}")
        columns["groups"] = [*map(str, names)]
    return columns


def scores(predictions, references, groups=None) -> dict:
    """The result for what [`reduce`] keeps of all images, in any order."""
    usable = np.array([bool(accepted) for accepted in references], bool)
    if not usable.any():
        raise ValueError(f"zero usable images: {len(usable)} were added, all without a label")
    keys = {"class": np.array([accepted[0] for accepted in references if accepted])}
    if groups is not None:
        keys["group"] = np.array(groups, str)[usable]
    results: dict = {}
    rank = ranks(predictions, references)[usable]
    num_ranked = min(len(ids) for ids, accepted in zip(predictions, references, strict=True) if accepted)
    for k in (1, TOP) if num_ranked >= TOP else (1,):
        correct = rank < k
        results[f"top{k}"] = float(correct.mean())
        for name, values in keys.items():
            unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
            means = (np.bincount(inverse, weights=correct) / counts).tolist()
            results[f"mean_per_{name}_top{k}"] = sum(means) / len(means)
            results[f"per_{name}_top{k}"] = dict(zip(unique.tolist(), means, strict=True))
    return results | {"num_images": int(usable.sum()), "num_excluded": int((~usable).sum())}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RobustAccuracy(evaluate.Metric):
    def __init__(self, *args, class_subset=None, **kwargs):
        if unknown := kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys():
            raise TypeError(f"unknown settings: {', '.join(unknown)}")  # which the base class would ignore
        super().__init__(*args, **kwargs)
        self.class_subset = class_subset

    def _info(self):
        ids = datasets.Sequence(datasets.Value("int64"))
        groups = {"groups": datasets.Value("string")} if self.config_name == "groups" else {}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": ids, "references": ids} | groups),
            reference_urls=["https://huggingface.co/papers/2206.01161"],
        )

    def add_batch(self, *, predictions=None, references=None, **groups):
        """Add images, of which up to five ids each are kept."""
        super().add_batch(**reduce(predictions, references, self.class_subset, len(self), **groups))

    def add(self, *, prediction=None, reference=None, **columns):
        """Add one image."""
        image = {"predictions": prediction, "references": reference} | columns  # `evaluate.combine` uses these names
        self.add_batch(**{name: value[None] if hasattr(value, "shape") else [value] for name, value in image.items()})

    def _compute(self, predictions, references, groups=None):
        return scores(predictions, references, groups)
