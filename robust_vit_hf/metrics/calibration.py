"""Expected calibration error, negative log-likelihood and Brier score, as a metric of `evaluate`; see `README.md`."""

import inspect
import math
from operator import index

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Expected calibration error, negative log-likelihood and Brier score, with class subsets and several accepted ids.
"""

_KWARGS_DESCRIPTION = """
Args:
    from_logits: of `evaluate.load`; whether predictions are logits (the default) or probabilities.
    class_subset: of `evaluate.load`; ids of the classes over which probabilities are normalised. By default all.
    num_bins: of `evaluate.load`; number of equal-width bins of the expected calibration error. By default 15.
    predictions: logits, or probabilities that sum to 1, `(N, C)`. Among equal ones, the lower id is predicted.
    references: ids `(N,)`; lists of accepted ids, empty for an image that does not count; or these as an array
        `(N, m)`, padded with -1.

Returns:
    `ece`, in [0, 1]: mean over images of the gap between accuracy and mean confidence of the image's bin; bins are
    (0, 1/num_bins], …, (1 - 1/num_bins, 1]. `nll`, in nats, at least 0, infinite if an accepted probability is 0.
    `brier`, in [0, 2]: squared error of the probabilities, summed over the classes, with the accepted ids as one.
    `num_images`, and `num_excluded`, which have no accepted id.

Raises:
    ValueError: NaN or infinity, probabilities that do not sum to 1, or ids that do not exist or are not in the subset
        (names the image, and does not add the batch); other lengths, shapes or types; no image has an accepted id.

Examples:
    >>> calibration = evaluate.load("eval/calibration", from_logits=False)
    >>> results = calibration.compute(predictions=[[0.8, 0.2], [0.4, 0.6]], references=[0, 0])
    >>> round(results["ece"], 4)
    0.4
"""

_CITATION = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={International Conference on Machine Learning},
  year={2017}
}
"""


def reduce(predictions, references, from_logits=True, class_subset=None, first_image=0) -> dict[str, np.ndarray]:
    """Values kept of each image: confidence, NLL, Brier score and whether the predicted class is right, `(N, 4)`
    float64, and whether they count, `(N,)` bool. `first_image` is the number of the first in the set, for errors."""
    if hasattr(predictions, "detach"):  # a tensor, perhaps in bfloat16 or on another device
        predictions = predictions.detach().cpu().double()
    # One memory layout for all batch sizes, since it affects the last bit of sums.
    values = np.array(predictions, np.float64, order="C")
    values = values if values.size else np.empty((0, 1))
    if values.ndim != 2:
        raise ValueError(f"predictions: expected (N, C), but got the shape {values.shape}")
    classes = np.arange(values.shape[1]) if class_subset is None or not len(values) else np.unique(class_subset)
    if not {*classes.tolist()} <= {*range(values.shape[1])}:
        raise ValueError(f"class_subset: expected ids of the {values.shape[1]} classes, but got {classes}")
    bad = np.zeros(len(values), bool)
    if not from_logits:
        # In bfloat16, a probability is off by up to 0.4 per cent.
        bad = (values < 0).any(axis=1) | (abs(values.sum(axis=1) - 1) > 0.01)
        # The logarithm of 0 is meant; that of a negative value is rejected below.
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log(values)
    logits = values.take(classes, axis=1)
    bad |= ~np.isfinite(logits.max(axis=1))
    if bad.any():
        image = first_image + int(bad.argmax())
        expected = "no NaN or infinity" if from_logits else "that they sum to 1, and exceed 0 in class_subset"
        raise ValueError(f"the predictions of image {image}: expected {expected}. Look at it, or use float32")
    columns = {class_id: column for column, class_id in enumerate(classes.tolist())}
    is_accepted, usable = np.zeros(logits.shape, bool), np.zeros(len(logits), bool)
    references = references.tolist() if hasattr(references, "tolist") else references
    for row, reference in zip(range(len(logits)), references, strict=True):
        ids = [index(class_id) for class_id in np.ravel(reference) if class_id != -1]
        accepted = [columns[class_id] for class_id in ids if class_id in columns]
        if ids and not accepted:
            raise ValueError(f"the reference of image {first_image + row} is {ids}: expected ids in class_subset")
        is_accepted[row, accepted], usable[row] = True, bool(ids)
    total = log_sum_exp(logits)
    nll = np.maximum(total - log_sum_exp(np.where(is_accepted, logits, -np.inf)), 0)
    probabilities = np.exp(logits - total[:, None])
    brier = (1 - np.exp(-nll)) ** 2 + np.square(np.where(is_accepted, 0, probabilities)).sum(axis=1)
    correct = is_accepted[np.arange(len(logits)), logits.argmax(axis=1)]  # argmax takes the first among equals
    return {"predictions": np.stack([probabilities.max(axis=1), nll, brier, correct], axis=1), "references": usable}


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    """Logarithm `(N,)` of the sum of the exponentials of each row, where `scipy.special.logsumexp` rounds too."""
    highest = values.max(axis=1, keepdims=True)
    is_highest = values == highest
    rest = np.exp(np.where(is_highest, -np.inf, values) - np.maximum(highest, np.finfo(np.float64).min)).sum(axis=1)
    count = is_highest.sum(axis=1)
    return np.log1p(rest / count) + np.log(count) + highest[:, 0]


def scores(predictions, references, num_bins: int = 15) -> dict:
    """The result for what [`reduce`] keeps of all images, in any order."""
    usable = np.array(references, bool)
    if not usable.any():
        raise ValueError(f"zero usable images: {len(usable)} were added, all without a label")
    confidence, nll, brier, correct = np.array(predictions)[usable].T
    # A little more than the edges: a confidence of 0.2 may be rounded up, and must not exceed the edge 3/15.
    edges = np.histogram_bin_edges([], num_bins, (0, 1))[1:-1] + 2.0**-40
    bins, gaps = np.searchsorted(edges, confidence, side="left"), correct - confidence
    # fsum is exact, so that the order of the images does not matter.
    return {
        "ece": math.fsum(abs(math.fsum(gaps[bins == place])) for place in np.unique(bins)) / len(gaps),
        "nll": math.fsum(nll) / len(gaps),
        "brier": math.fsum(brier) / len(gaps),
        "num_images": len(gaps),
        "num_excluded": int((~usable).sum()),
    }


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Calibration(evaluate.Metric):
    def __init__(self, *args, from_logits=True, class_subset=None, num_bins=15, **kwargs):
        if unknown := kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys():
            raise TypeError(f"unknown settings: {', '.join(unknown)}")  # which the base class would ignore
        super().__init__(*args, **kwargs)
        self.from_logits, self.class_subset, self.num_bins = from_logits, class_subset, num_bins

    def _info(self):
        numbers = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": numbers, "references": datasets.Value("bool")}),
            reference_urls=["https://huggingface.co/papers/1706.04599"],
        )

    def add_batch(self, *, predictions=None, references=None):
        """Add images, of which five numbers each are kept."""
        super().add_batch(**reduce(predictions, references, self.from_logits, self.class_subset, len(self)))

    def add(self, *, prediction=None, reference=None, **columns):
        """Add one image."""
        image = {"predictions": prediction, "references": reference} | columns  # `evaluate.combine` uses these names
        self.add_batch(**{name: value[None] if hasattr(value, "shape") else [value] for name, value in image.items()})

    def _compute(self, predictions, references):
        return scores(predictions, references, self.num_bins)
