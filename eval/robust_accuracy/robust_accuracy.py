"""Top-1 and top-5 accuracy over images, classes and groups, with class subsets and several accepted ids."""

import inspect
import reprlib
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Top-1 and top-5 accuracy for robustness sets, averaged over images, over classes and over groups of images. A class
subset masks the logits before ranking (the 200 classes of ImageNet-A or -R, the 125 ids of ObjectNet), and an image
may have several accepted ids (ObjectNet, ReaL). Logits are reduced to five ids an image when they are added, so that a
large set never holds all of them.
"""

_KWARGS_DESCRIPTION = """
Settings, given to `evaluate.load`:
    config_name (`str`): `"groups"` where every image belongs to a group; by default there are none.
    class_subset (sequence of `int`): the classes that are ranked; by default all.

Args:
    predictions: one of
        - logits or probabilities `(N, C)`, floating point. Of equal logits, the one with the lower id ranks first.
        - ids `(N, k)`, integers, the best first. With fewer than five, there is no top-5.
        - ids `(N,)`, integers, of the predicted classes.
    references: `(N,)`, each an id, or a list of the ids that are accepted. An image with an empty list is left out and
        counted. An array `(N, m)` holds such lists, filled up with -1.
    groups: `(N,)`, strings or numbers, in the configuration `groups` alone.

Returns:
    top1, top5 (`float`): accuracy over images, in [0, 1].
    mean_per_class_top1, mean_per_class_top5 (`float`): mean of the accuracies of the classes that have images. The
        class of an image is the first of its ids.
    per_class_top1, per_class_top5 (`dict`): accuracy by class id.
    mean_per_group_top1, mean_per_group_top5 (`float`), per_group_top1, per_group_top5 (`dict`): the same by group, in
        the configuration `groups`; the keys are strings.
    num_images, num_excluded (`int`): images that count, and images without an accepted id.

Raises:
    ValueError: on NaN logits (names the row), ids that do not exist or are not in the subset, inputs of unequal
        length, and when there is no usable image. A batch that raises is not added.

Examples:
    Logits, of which the first image's are right and the second's are second best:

    >>> import evaluate
    >>> robust_accuracy = evaluate.load("eval/robust_accuracy")
    >>> logits = [[4.0, 1.0, 0.0, 2.0], [1.0, 3.0, 2.0, 0.0]]
    >>> results = robust_accuracy.compute(predictions=logits, references=[0, 2])
    >>> results["top1"], results["top5"], results["per_class_top1"]
    (0.5, 1.0, {0: 1.0, 2: 0.0})

    The same images over the classes 0 and 2, in batches:

    >>> robust_accuracy = evaluate.load("eval/robust_accuracy", class_subset=[0, 2])
    >>> for scores, label in zip(logits, [0, 2]):
    ...     robust_accuracy.add_batch(predictions=[scores], references=[label])
    >>> robust_accuracy.compute()["top1"]
    1.0

    Top ids instead of logits, and lists of accepted ids, of which one is empty:

    >>> robust_accuracy = evaluate.load("eval/robust_accuracy")
    >>> results = robust_accuracy.compute(predictions=[[7, 3], [5, 1], [2, 9]], references=[[3, 7], [1], []])
    >>> results["top1"], results["num_images"], results["num_excluded"]
    (0.5, 2, 1)

    Accuracy by angle:

    >>> robust_accuracy = evaluate.load("eval/robust_accuracy", "groups")
    >>> results = robust_accuracy.compute(predictions=[1, 1, 2], references=[1, 2, 2], groups=[0, 0, 180])
    >>> results["mean_per_group_top1"], results["per_group_top1"]
    (0.75, {'0': 0.5, '180': 1.0})
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


def to_numpy(values) -> np.ndarray:
    """Array of a list, an array or a tensor, which may be on another device, within a graph, or in bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.itemsize == 2:
            values = values.float()
    return np.asarray(values)


def to_accepted_ids(references, first_row: int) -> list[list[int]]:
    """Lists of accepted ids, each id once and in the order given.

    Args:
        references: `(N,)` ids or lists of ids, or an array `(N, m)` filled up with -1.
        first_row: number of the first image in the whole set, for errors.
    """
    accepted = []
    for row, reference in enumerate(to_numpy(references) if hasattr(references, "shape") else references):
        values = to_numpy(reference)
        ids = [value for value in values.tolist() if value != -1] if values.ndim else [values.item()]
        if values.ndim > 1 or not all(type(value) is int and value >= 0 for value in ids):
            raise ValueError(
                f"the reference of image {first_row + row} (row {row} of the batch) is "
                f"{reprlib.repr(values.tolist())}: expected the id of a class, from 0, or a list of "
                "ids. Leave images without a label out, or give them an empty list"
            )
        accepted.append(list(dict.fromkeys(ids)))
    return accepted


def top_ids(logits: np.ndarray, class_subset: np.ndarray | None, first_row: int) -> np.ndarray:
    """Ids of the five highest logits, the highest first and the lower id first among equals.

    Args:
        logits: `(N, C)`, floating point.
        class_subset: ascending ids of the classes that are ranked, or `None` for all.
        first_row: number of the first image in the whole set, for errors.

    Returns:
        `(N, 5)` int64, filled up with -1 where there are fewer classes.
    """
    highest = logits.max(axis=1)  # NaN where the row has one
    scores = logits if class_subset is None else logits.take(class_subset, axis=1)
    # A copy in which what has been taken can be marked. -inf is the mark, so that logits themselves must lie above it.
    scores = np.maximum(scores, np.finfo(logits.dtype).min)
    rows = np.arange(len(scores))
    ids = np.full((len(scores), TOP), -1)
    # Taking the highest five times is faster than sorting, and `argmax` takes the first of equals.
    for rank in range(min(TOP, scores.shape[1])):
        ids[:, rank] = best = scores.argmax(axis=1)
        scores[rows, best] = -np.inf
    if class_subset is not None:
        ids = np.where(ids < 0, -1, class_subset[ids])
    bad = np.isnan(highest) | (logits[rows, ids[:, 0]] == -np.inf)
    if bad.any():
        row = bad.argmax()
        problem = "NaN" if np.isnan(highest[row]) else "-inf for every class that is ranked"
        raise ValueError(
            f"the logits of image {first_row + row} (row {row} of the batch) are {problem}, which cannot be ranked: "
            "look at the image and at the model, or evaluate in float32"
        )
    return ids


def means(correct: np.ndarray, keys: list) -> dict:
    """Mean of `correct` `(N,)` by key `(N,)`, in ascending order of the keys."""
    unique, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return dict(zip(unique.tolist(), (np.bincount(inverse, weights=correct) / counts).tolist(), strict=True))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RobustAccuracy(evaluate.Metric):
    def __init__(self, *args, class_subset: Sequence[int] | None = None, **kwargs):
        # The base class takes any keyword and ignores those that it does not know.
        unknown = sorted(kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys())
        if unknown:
            raise TypeError(f"robust_accuracy has no setting {', '.join(unknown)}: it has class_subset")
        super().__init__(*args, **kwargs)
        self.class_subset = None
        if class_subset is not None:
            self.class_subset = np.unique(to_numpy(class_subset))
            if not len(self.class_subset) or self.class_subset.dtype.kind not in "iu" or self.class_subset[0] < 0:
                raise ValueError(f"class_subset is {class_subset!r}: expected one or more class ids, from 0")

    def _info(self):
        if self.config_name not in ("default", "groups"):
            raise ValueError(
                f"robust_accuracy has no configuration {self.config_name!r}: give 'groups' if the images have groups, "
                "and nothing otherwise"
            )
        # What an image is reduced to, which is what Arrow stores.
        features = {"predictions": datasets.List(datasets.Value("int64"))}
        features["references"] = datasets.List(datasets.Value("int64"))
        if self.config_name == "groups":
            features["groups"] = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
            reference_urls=["https://huggingface.co/papers/2206.01161"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add images. Logits are reduced to five ids an image at once."""
        if ("groups" in kwargs) != (self.config_name == "groups"):
            raise ValueError(
                "groups are missing: give one for each image, or load without the configuration 'groups'"
                if self.config_name == "groups"
                else "groups need the configuration 'groups': evaluate.load(…, 'groups')"
            )
        predictions = to_numpy(predictions)
        if predictions.size == 0:
            predictions = np.empty((0, 1), dtype=int)
        if predictions.dtype.kind + str(predictions.ndim) not in ("f2", "i1", "i2", "u1", "u2") or references is None:
            raise ValueError(
                f"predictions are {predictions.dtype} of shape {predictions.shape}, and references are "
                f"{'missing' if references is None else 'given'}: expected references, and logits (N, C) in floating "
                "point or integer ids (N, k) or (N,). The label names of a pipeline need a label_mapping"
            )
        columns = {"references": to_accepted_ids(references, len(self))}
        if "groups" in kwargs:
            # One by one: in an array with 2.5, the group 1 would become 1.0.
            columns["groups"] = [str(to_numpy(group).item()) for group in kwargs.pop("groups")]
        for name, column in columns.items():
            if len(column) != len(predictions):
                raise ValueError(
                    f"{len(predictions)} predictions but {len(column)} {name}: expected one for each image"
                )
        if predictions.dtype.kind == "f":
            self._check_references(columns["references"], predictions.shape[1])
            ids = top_ids(predictions, self.class_subset, len(self))
        else:
            self._check_references(columns["references"], None)
            ids = (predictions if predictions.ndim == 2 else predictions[:, None])[:, :TOP]
            self._check_top_ids(ids)
        super().add_batch(predictions=ids.tolist(), **columns, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one image."""
        # evaluate.combine gives the plural names here too.
        image = {"predictions": prediction, "references": reference, **kwargs}
        image["predictions"] = to_numpy(image["predictions"])
        self.add_batch(**{name: value[None] if name == "predictions" else [value] for name, value in image.items()})

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Accuracy over all that was added, and over what is given here."""
        if predictions is None and self.writer is None:
            raise ValueError("zero images: add some with add_batch, or give predictions and references to compute")
        if unknown := sorted(kwargs.keys() - self.features.keys()):
            raise TypeError(
                f"compute takes no {', '.join(unknown)}: class_subset is given to evaluate.load, and so is the "
                "configuration 'groups'"
            )
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _check_references(self, accepted: list[list[int]], num_classes: int | None) -> None:
        """Refuse ids that no prediction can have."""
        if num_classes is not None and self.class_subset is not None and self.class_subset[-1] >= num_classes:
            raise ValueError(
                f"class_subset holds the id {self.class_subset[-1]}, but the logits have {num_classes} classes: "
                "expected ids of the model's classes"
            )
        subset = None if self.class_subset is None else set(self.class_subset.tolist())
        for row, ids in enumerate(accepted):
            where = f"image {len(self) + row} (row {row} of the batch) has the reference {ids}"
            if num_classes is not None and ids and max(ids) >= num_classes:
                raise ValueError(
                    f"{where}, but the logits have {num_classes} classes: expected ids of the model's classes"
                )
            if subset is not None and ids and subset.isdisjoint(ids):
                raise ValueError(
                    f"{where}, none of which is in class_subset: give both in the model's ids, and leave such images "
                    "out"
                )

    def _check_top_ids(self, ids: np.ndarray) -> None:
        """Refuse what cannot be a ranking of classes, such as integer logits."""
        ascending = np.sort(ids, axis=1)
        problems = {
            "a negative id": (ids < 0).any(axis=1),
            "an id twice": (ascending[:, 1:] == ascending[:, :-1]).any(axis=1),
        }
        if self.class_subset is not None:
            problems["an id that is not in class_subset"] = ~np.isin(ids, self.class_subset).all(axis=1)
        for problem, bad in problems.items():
            if bad.any():
                row = bad.argmax()
                raise ValueError(
                    f"the predictions of image {len(self) + row} (row {row} of the batch) are {ids[row].tolist()}, "
                    f"with {problem}: expected the ids of the best classes. Logits are given in floating point"
                )

    def _compute(self, predictions, references, groups=None):
        usable = [row for row, ids in enumerate(references) if ids]
        if not usable:
            raise ValueError(f"zero usable images: {len(references)} were added, and none has an accepted id")
        top = min(len(predictions[row]) for row in usable)
        # Place of the first accepted id.
        ranks = []
        for row in usable:
            accepted = references[row]
            ranks.append(next((rank for rank, id in enumerate(predictions[row]) if id in accepted), TOP))
        ranks = np.array(ranks)
        keys = {"class": [references[row][0] for row in usable]}
        if groups is not None:
            keys["group"] = [groups[row] for row in usable]
        results = {}
        for k in (1, TOP) if top == TOP else (1,):
            correct = ranks < k
            results[f"top{k}"] = float(correct.mean())
            for name, values in keys.items():
                by_key = means(correct, values)
                results[f"mean_per_{name}_top{k}"] = sum(by_key.values()) / len(by_key)
                results[f"per_{name}_top{k}"] = by_key
        return results | {"num_images": len(usable), "num_excluded": len(references) - len(usable)}
