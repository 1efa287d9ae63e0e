"""Expected calibration error, negative log-likelihood and Brier score, with class subsets and several accepted ids."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from .base import StreamingMetric, place_of, to_accepted_ids, to_class_subset, to_numbers


class Calibration(StreamingMetric):
    """Calibration of the confidence of a classifier.

    Args:
        from_logits: whether predictions are logits, or probabilities.
        class_subset: ids of the classes over which probabilities are normalised; all by default.
        num_bins: number of equal-width bins of the expected calibration error.

    Example:
        >>> calibration = Calibration(from_logits=False)
        >>> calibration.update([[0.8, 0.2], [0.4, 0.6]], [0, 0])
        >>> round(calibration.compute()["ece"], 4)
        0.4

    Source: https://huggingface.co/papers/1706.04599
    """

    columns = dict.fromkeys(("confidence", "nll", "brier"), "float64") | {"correct": "bool"}

    def __init__(self, from_logits: bool = True, class_subset: Sequence[int] | None = None, num_bins: int = 15):
        super().__init__()
        self.from_logits = from_logits
        self.class_subset = to_class_subset(class_subset)
        # A little more than the edges: a confidence of 0.2 may be rounded up, and must not exceed the edge 3/15.
        self.edges = np.histogram_bin_edges([], num_bins, (0, 1))[1:-1] + 2.0**-40

    def reduce(self, predictions, references, first_image: int = 0) -> dict[str, np.ndarray]:
        """`confidence` of the predicted class, `nll`, `brier`, `correct` (bool) and `usable` of each image.

        Args:
            predictions: logits, or probabilities that sum to 1, `(N, C)`, floating point. Among equal ones, the lower id is predicted.
            references: `(N,)`, each an id, or a list of accepted ids, which is empty for an image that does not count; or an array `(N, m)`
                of such lists, padded with -1.

        Raises:
            ValueError: NaN or infinity, probabilities that do not sum to 1, or ids that do not exist or are not in the subset (names the
                row); other lengths, shapes or types (names the argument).
        """
        if not len(predictions):
            return {name: np.empty(0, dtype) for name, dtype in self.columns.items()} | {"usable": np.empty(0, bool)}
        # One memory layout for all batch sizes, since it affects the last bit of sums.
        scores = to_numbers(predictions, "predictions", 2).astype(np.float64, order="C")
        accepted = to_accepted_ids(references, first_image, scores.shape[1], self.class_subset)
        usable = np.array([bool(labels) for labels in accepted], dtype=bool)
        if self.class_subset is not None:
            columns = {class_id: column for column, class_id in enumerate(self.class_subset.tolist())}
            accepted = [[columns[class_id] for class_id in labels if class_id in columns] for labels in accepted]
        return _numbers(self._to_logits(scores, first_image), accepted) | {"usable": usable}

    def scores(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images.

        Returns:
            `ece`, in [0, 1]: mean over images of the gap between accuracy and mean confidence of the image's bin; bins are (0, 1/num_bins],
            …, (1 − 1/num_bins, 1]. `nll`, in nats, at least 0, infinite if an accepted probability is 0. `brier`, in [0, 2]: squared
            error of the probabilities, summed over the classes, with the accepted ids as one class. `num_images` (usable) and
            `num_excluded`.
        """
        usable = images["usable"]
        confidence = images["confidence"][usable]
        bins = np.searchsorted(self.edges, confidence, side="left")
        gaps = images["correct"][usable].astype(int) - confidence
        # fsum is exact, so that the order of the images does not matter.
        return {
            "ece": math.fsum(abs(math.fsum(gaps[bins == index])) for index in np.unique(bins)) / len(gaps),
            "nll": math.fsum(images["nll"][usable]) / len(gaps),
            "brier": math.fsum(images["brier"][usable]) / len(gaps),
            "num_images": len(gaps),
            "num_excluded": int((~usable).sum()),
        }

    def _to_logits(self, scores: np.ndarray, first_image: int) -> np.ndarray:
        """Logits `(N, C)` of the class subset."""
        bad = np.zeros(len(scores), dtype=bool)
        if not self.from_logits:
            # In bfloat16, a probability is off by up to 0.4 per cent.
            bad = (scores < 0).any(axis=1) | (abs(scores.sum(axis=1) - 1) > 0.01)
            # The logarithm of 0 is meant; that of a negative value is rejected below.
            with np.errstate(divide="ignore", invalid="ignore"):
                scores = np.log(scores)
        scores = scores if self.class_subset is None else scores.take(self.class_subset, axis=1)
        bad |= ~np.isfinite(scores.max(axis=1))
        if bad.any():
            probabilities = "probabilities that sum to 1, with some above 0 in class_subset"
            expected = "logits without NaN or infinity" if self.from_logits else probabilities
            raise ValueError(
                f"the predictions of {place_of(first_image, int(bad.argmax()))} are invalid: expected {expected} (from_logits="
                f"{self.from_logits}). Look at the image, or evaluate in float32"
            )
        return scores


def _numbers(logits: np.ndarray, accepted: list[list[int]]) -> dict[str, np.ndarray]:
    is_accepted = np.zeros(logits.shape, dtype=bool)
    for row, columns in zip(is_accepted, accepted, strict=True):
        row[columns] = True
    total = special.logsumexp(logits, axis=1)
    nll = np.maximum(total - special.logsumexp(np.where(is_accepted, logits, -np.inf), axis=1), 0)
    probabilities = np.exp(logits - total[:, None])
    others = np.where(is_accepted, 0, probabilities)
    return {
        "confidence": probabilities.max(axis=1),
        "nll": nll,
        "brier": (1 - np.exp(-nll)) ** 2 + np.square(others).sum(axis=1),
        "correct": is_accepted[np.arange(len(logits)), logits.argmax(axis=1)],  # argmax takes the first among equals
    }
