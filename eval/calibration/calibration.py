"""Expected calibration error, negative log-likelihood and Brier score, with class subsets and several accepted ids."""

import inspect
import math
import reprlib
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
How far a classifier's confidence can be trusted: expected calibration error (ECE), negative log-likelihood (NLL) and
Brier score. A class subset renormalises the probabilities over the classes that count (the 200 of ImageNet-A or -R,
the 125 ids of ObjectNet), and an image may have several accepted ids (ObjectNet, ReaL). Logits are reduced to four
numbers an image when they are added, so that a large set never holds all of them.
"""

_KWARGS_DESCRIPTION = """
Settings, given to `evaluate.load`:
    from_logits (`bool`): whether predictions are logits (the default) or probabilities.
    class_subset (sequence of `int`): the classes over which probabilities are normalised; by default all.
    num_bins (`int`): equal-width bins of the ECE; 15 by default.

Args:
    predictions: logits, or probabilities that sum to 1, `(N, C)`, floating point. Of equal ones, the class with the
        lower id is predicted.
    references: `(N,)`, each an id, or a list of the ids that are accepted. An image with an empty list is left out and
        counted. An array `(N, m)` holds such lists, filled up with -1.

Returns:
    ece (`float`): mean over images of the gap between accuracy and mean confidence of the image's bin, in [0, 1]. The
        confidence is the probability of the predicted class, which is correct if its id is accepted. Bins are
        (0, 1/num_bins], …, (1 - 1/num_bins, 1].
    nll (`float`): mean over images of -log p, in nats, from 0. p is the probability of the image's class, or the
        summed probability of its accepted ids. Infinite if p is 0.
    brier (`float`): mean over images of the squared error of the probabilities, summed over the classes, in [0, 2].
        Accepted ids count as one class, with their summed probability.
    num_images, num_excluded (`int`): images that count, and images without an accepted id.

Raises:
    ValueError: on logits with NaN (names the row), rows of probabilities that do not sum to 1, ids that do not exist
        or are not in the subset, inputs of unequal length, and when there is no usable image. A batch that raises is
        not added.

Examples:
    Probabilities of two images. The confidences 0.8 and 0.6 are in bins of their own, the first image is right:

    >>> import evaluate
    >>> calibration = evaluate.load("eval/calibration", from_logits=False)
    >>> results = calibration.compute(predictions=[[0.8, 0.2], [0.4, 0.6]], references=[0, 0])
    >>> {name: round(value, 4) for name, value in results.items()}
    {'ece': 0.4, 'nll': 0.5697, 'brier': 0.4, 'num_images': 2, 'num_excluded': 0}

    Logits in batches, over the classes 0 and 2. Both have the confidence 0.5, and the lower id is predicted:

    >>> calibration = evaluate.load("eval/calibration", class_subset=[0, 2])
    >>> calibration.add_batch(predictions=[[1.0, 9.0, 1.0, 0.0]], references=[0])
    >>> calibration.add_batch(predictions=[[2.0, 9.0, 2.0, 0.0]], references=[[2, 3]])
    >>> results = calibration.compute()
    >>> round(results["ece"], 4), round(results["nll"], 4), round(results["brier"], 4)
    (0.0, 0.6931, 0.5)

    Two accepted ids are one class: 0.5 + 0.3 for the first image. The second has none and is left out:

    >>> calibration = evaluate.load("eval/calibration", from_logits=False)
    >>> results = calibration.compute(predictions=[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], references=[[0, 1], []])
    >>> {name: round(value, 4) for name, value in results.items()}
    {'ece': 0.5, 'nll': 0.2231, 'brier': 0.08, 'num_images': 1, 'num_excluded': 1}
"""

_CITATION = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={International Conference on Machine Learning},
  year={2017}
}
"""


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


def image_numbers(logits: np.ndarray, accepted: list[list[int]]) -> tuple[list[dict], list[int]]:
    """The numbers that images are reduced to.

    Args:
        logits: `(N, C)` float64, the highest of each row finite. -inf is a probability of 0.
        accepted: `(N,)` lists of columns. With an empty list, what depends on it is meaningless.

    Returns:
        What is known of the probabilities, by the names of the features, and whether each image is correct (1 or 0),
        or has no accepted id (-1).
    """
    count = len(logits)
    everywhere = np.arange(count)
    highest = logits.max(axis=1)
    predicted = logits.argmax(axis=1)  # the first of equals
    unnormalized = np.exp(logits - highest[:, None])
    total = unnormalized.sum(axis=1)
    probabilities = unnormalized / total[:, None]

    # The same for the accepted ids alone, whose logits may lie too far below the highest for `unnormalized`.
    rows = np.repeat(everywhere, [len(ids) for ids in accepted])
    columns = np.array([column for ids in accepted for column in ids], dtype=int)
    values = logits[rows, columns]
    highest_accepted = np.full(count, -np.inf)
    np.maximum.at(highest_accepted, rows, values)
    shift = np.where(np.isfinite(highest_accepted), highest_accepted, 0)
    accepted_total = np.bincount(rows, weights=np.exp(values - shift[rows]), minlength=count)
    with np.errstate(divide="ignore"):  # log 0 of an accepted probability of 0
        nll = highest - shift + np.log(total) - np.log(accepted_total)

    others = probabilities
    others[rows, columns] = 0
    brier = (1 - np.exp(-nll)) ** 2 + np.square(others).sum(axis=1)
    correct = [int(column in ids) if ids else -1 for column, ids in zip(predicted.tolist(), accepted, strict=True)]
    numbers = zip((1 / total).tolist(), np.maximum(nll, 0).tolist(), brier.tolist(), strict=True)
    return [dict(zip(("confidence", "nll", "brier"), image, strict=True)) for image in numbers], correct


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Calibration(evaluate.Metric):
    def __init__(
        self,
        *args,
        from_logits: bool = True,
        class_subset: Sequence[int] | None = None,
        num_bins: int = 15,
        **kwargs,
    ):
        # The base class takes any keyword and ignores those that it does not know.
        unknown = sorted(kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys())
        if unknown:
            raise TypeError(
                f"calibration has no setting {', '.join(unknown)}: it has from_logits, class_subset and num_bins"
            )
        super().__init__(*args, **kwargs)
        self.from_logits = from_logits
        self.class_subset = None
        if class_subset is not None:
            self.class_subset = np.unique(to_numpy(class_subset))
            if not len(self.class_subset) or self.class_subset.dtype.kind not in "iu" or self.class_subset[0] < 0:
                raise ValueError(f"class_subset is {class_subset!r}: expected one or more class ids, from 0")
        if not isinstance(num_bins, int) or num_bins < 1:
            raise ValueError(f"num_bins is {num_bins!r}: expected an integer from 1")
        self.num_bins = num_bins

    def _info(self):
        # What an image is reduced to, which is what Arrow stores.
        number = datasets.Value("float64")
        features = {
            "predictions": {"confidence": number, "nll": number, "brier": number},
            "references": datasets.Value("int8"),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
            reference_urls=["https://huggingface.co/papers/1706.04599"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add images. Logits are reduced to four numbers an image at once."""
        predictions = to_numpy(predictions)
        if predictions.size == 0:
            predictions = np.empty((0, 1))
        if predictions.ndim != 2 or predictions.dtype.kind != "f" or references is None:
            raise ValueError(
                f"predictions are {predictions.dtype} of shape {predictions.shape}, and references are "
                f"{'missing' if references is None else 'given'}: expected both, with "
                f"{'logits' if self.from_logits else 'probabilities'} (N, C) in floating point"
            )
        accepted = to_accepted_ids(references, len(self))
        if len(accepted) != len(predictions):
            raise ValueError(
                f"{len(predictions)} predictions but {len(accepted)} references: expected one for each image"
            )
        if len(predictions):
            # The last bit of a sum depends on the memory layout, which is thus the same for batches of any size.
            scores, correct = image_numbers(*self._checked(predictions.astype(np.float64, order="C"), accepted))
        else:
            scores, correct = [], []
        super().add_batch(predictions=scores, references=correct, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one image."""
        # evaluate.combine gives the plural names here too.
        image = {"predictions": prediction, "references": reference, **kwargs}
        image["predictions"] = to_numpy(image["predictions"])
        self.add_batch(**{name: value[None] if name == "predictions" else [value] for name, value in image.items()})

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Scores of all that was added, and of what is given here."""
        if predictions is None and self.writer is None:
            raise ValueError("zero images: add some with add_batch, or give predictions and references to compute")
        if unknown := sorted(kwargs.keys() - self.features.keys()):
            raise TypeError(
                f"compute takes no {', '.join(unknown)}: from_logits, class_subset and num_bins are given to "
                "evaluate.load"
            )
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _checked(self, scores: np.ndarray, accepted: list[list[int]]) -> tuple[np.ndarray, list[list[int]]]:
        """Logits `(N, C)` of the classes that count, and the accepted ids as columns of them."""
        num_classes = scores.shape[1]
        subset = np.arange(num_classes) if self.class_subset is None else self.class_subset
        if subset[-1] >= num_classes:
            raise ValueError(
                f"class_subset holds the id {subset[-1]}, but the predictions have {num_classes} classes: expected "
                "ids of the model's classes"
            )
        columns = {id: column for column, id in enumerate(subset.tolist())}
        in_subset = []
        for row, ids in enumerate(accepted):
            where = f"image {len(self) + row} (row {row} of the batch) has the reference {ids}"
            if ids and max(ids) >= num_classes:
                raise ValueError(
                    f"{where}, but the predictions have {num_classes} classes: expected ids of the model's classes"
                )
            in_subset.append([columns[id] for id in ids if id in columns])
            if ids and not in_subset[row]:
                raise ValueError(
                    f"{where}, none of which is in class_subset: give both in the model's ids, and leave such images "
                    "out"
                )

        problems = {"NaN": np.isnan(scores).any(axis=1)}
        if not self.from_logits:
            sums = scores.sum(axis=1)
            # bfloat16 rounds a probability by up to 0.4 per cent.
            problems["no probabilities, from 0 and with a sum of 1"] = (scores < 0).any(axis=1) | (
                abs(sums - 1) > 0.01
            )
            with np.errstate(divide="ignore", invalid="ignore"):  # a probability of 0; what is below is refused
                scores = np.log(scores)
        scores = scores if self.class_subset is None else scores.take(subset, axis=1)
        highest = scores.max(axis=1)
        problems["+inf"] = highest == np.inf
        problems["without any probability on the classes that count"] = highest == -np.inf
        for problem, bad in problems.items():
            if bad.any():
                row = bad.argmax()
                raise ValueError(
                    f"the predictions of image {len(self) + row} (row {row} of the batch) are {problem}: look at the "
                    "image and at the model, or evaluate in float32. They are taken as "
                    f"{'logits' if self.from_logits else 'probabilities'}, which is the setting from_logits"
                )
        return scores, in_subset

    def _compute(self, predictions, references):
        usable = [(scores, correct) for scores, correct in zip(predictions, references, strict=True) if correct >= 0]
        if not usable:
            raise ValueError(f"zero usable images: {len(references)} were added, and none has an accepted id")
        confidence = np.array([scores["confidence"] for scores, _ in usable])
        # A confidence is rounded: that of the probabilities 0.2, 0.16, …, 0.16 must not exceed the edge 3/15.
        edges = np.arange(1, self.num_bins) / self.num_bins + 2.0**-40
        bins = np.searchsorted(edges, confidence, side="left")
        gaps = np.array([correct for _, correct in usable]) - confidence
        # fsum is exact, so that the order of the images does not matter.
        return {
            "ece": math.fsum(abs(math.fsum(gaps[bins == index])) for index in np.unique(bins)) / len(usable),
            "nll": math.fsum(scores["nll"] for scores, _ in usable) / len(usable),
            "brier": math.fsum(scores["brier"] for scores, _ in usable) / len(usable),
            "num_images": len(usable),
            "num_excluded": len(references) - len(usable),
        }
