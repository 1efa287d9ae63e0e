"""Relevance maps against foreground masks: the paper's segmentation test, pointing game, energy inside, AUC."""

import inspect
import math

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
How well relevance maps cover the object. Pixel accuracy, mean IoU and mean AP follow the segmentation test of
"Optimizing Relevance Maps of Vision Transformers Improves Robustness": a map is scaled to [0, 1] and thresholded at
its mean. The pointing game, the energy inside the mask and the AUC need no threshold. A map and its mask are reduced
to eight numbers when they are added, so that a set of any size runs in little memory.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: relevance maps `(N, H, W)` or `(N, 1, H, W)`, finite numbers of any range and sign; or a list of maps
        `(H, W)` of different sizes. Every map is scaled to [0, 1] by its own minimum and maximum.
    references: masks of the same sizes in [0, 1], foreground from 0.5.

Returns:
    pixel_accuracy (`float`): share of all pixels of the set that the thresholded maps get right, in [0, 1]. A pixel is
        foreground where it exceeds the mean of its map.
    mean_iou (`float`): mean over background and foreground of the IoU over all pixels of the set, in [0, 1]. A class
        that occurs neither in the masks nor in the thresholded maps is left out.
    mean_ap (`float`): mean over images of the average precision of the scores (1 - map, map) of all pixels for the
        classes (background, foreground), both in one ranking, in [0, 1]. Equal scores are one threshold, as in
        scikit-learn.
    pointing_game (`float` or `None`): share of images whose maximum lies on the foreground, in [0, 1], over the images
        with a foreground. Of several maxima, the share on the foreground counts.
    energy (`float` or `None`): mean over the images with a foreground of the share of the map's sum that lies on it,
        in [0, 1].
    auc (`float` or `None`): mean over the images with both classes of the ROC AUC of the map for the mask, in [0, 1],
        0.5 by chance.
    num_images, num_empty_masks, num_full_masks (`int`): images, and those without foreground and without background. A
        value above is `None` where no image is left for it.

    A flat map scales to 0 everywhere: all pixels are background, and `auc` counts 0.5. Its maxima and its energy are
    spread over all pixels, so `pointing_game` and `energy` count the share of the foreground.

Raises:
    ValueError: on maps with NaN or infinity, masks outside [0, 1], and a map and a mask of different sizes, each of
        which names the row; on inputs of unequal length; when there are zero images. A batch that raises is not added.

Examples:
    The map exceeds its mean in the first row, the foreground is the first pixel:

    >>> import evaluate
    >>> relevance_segmentation = evaluate.load("eval/relevance_segmentation")
    >>> relevance, mask = [[1.0, 0.8], [0.2, 0.0]], [[1, 0], [0, 0]]
    >>> results = relevance_segmentation.compute(predictions=[relevance], references=[mask])
    >>> results["pixel_accuracy"], round(results["mean_iou"], 4), round(results["mean_ap"], 4)
    (0.75, 0.5833, 0.8542)
    >>> results["pointing_game"], results["energy"], results["auc"]
    (1.0, 0.5, 1.0)

    In batches, with a mask that has no foreground:

    >>> relevance_segmentation.add_batch(predictions=[relevance], references=[mask])
    >>> relevance_segmentation.add_batch(predictions=[relevance], references=[[[0, 0], [0, 0]]])
    >>> results = relevance_segmentation.compute()
    >>> results["pixel_accuracy"], results["pointing_game"], results["num_images"], results["num_empty_masks"]
    (0.625, 1.0, 2, 1)
"""

_CITATION = """\
@inproceedings{chefer2022optimizing,
  title={Optimizing Relevance Maps of Vision Transformers Improves Robustness},
  author={Chefer, Hila and Schwartz, Idan and Wolf, Lior},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}
"""


def to_numpy(values) -> np.ndarray:
    """Array of a list, an array or a tensor, which may be on another device, within a graph, or in bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.itemsize == 2:
            values = values.float()
    return np.asarray(values)


def average_precision(foreground: np.ndarray, background: np.ndarray) -> float:
    """AP over the scores (1 - map, map) of all pixels, where a pixel's own class is positive and the other negative.

    Args:
        foreground, background: ascending values of the map in [0, 1] on the pixels of each class. Scores are equal
            where they agree to 2^-40, since 1/3 and 1 - 2/3 are not the same float.
    """
    one = 2.0**40
    # A pixel scores s for its own class and 1 - s for the other, so that the negatives are the positives mirrored, and
    # the ranks of both come from one sorted array.
    positive = np.concatenate([np.rint(one * foreground), one - np.rint(one * background[::-1])])
    positive.sort()
    positives_above = len(positive) - np.searchsorted(positive, positive, side="left")
    negatives_above = np.searchsorted(positive, (one - positive)[::-1], side="right")[::-1]
    return float(np.mean(positives_above / (positives_above + negatives_above)))


def roc_auc(foreground: np.ndarray, background: np.ndarray) -> float:
    """Probability that a foreground pixel exceeds a background pixel, where equal values count half.

    Args:
        foreground, background: ascending values of the map on the pixels of each class, at least one of each.
    """
    below = np.searchsorted(background, foreground, side="left") + np.searchsorted(
        background, foreground, side="right"
    )
    return float(below.sum() / (2 * len(foreground) * len(background)))


def image_numbers(relevance: np.ndarray, mask: np.ndarray) -> tuple[dict, dict]:
    """The numbers that an image is reduced to.

    Args:
        relevance: `(H, W)`, finite.
        mask: `(H, W)` bool.

    Returns:
        What is measured on the map, and what is known of the mask, by the names of the features. `auc` is NaN without
        both classes, `pointing_game` and `energy` without foreground.
    """
    relevance = relevance.astype(np.float64, order="C")  # a mean depends on the memory layout, in its last bit
    low, high = relevance.min(), relevance.max()
    flat = low == high
    relevance = np.zeros_like(relevance) if flat else (relevance - low) / (high - low)
    predicted = relevance > relevance.mean()
    foreground, background = np.sort(relevance[mask]), np.sort(relevance[~mask])
    num_foreground, num_pixels = len(foreground), mask.size
    maximum, mass = relevance.max(), foreground.sum()
    scores = {
        "num_foreground": int(predicted.sum()),
        "num_intersection": int(predicted[mask].sum()),
        "ap": average_precision(foreground, background),
        "pointing_game": math.nan,
        "energy": math.nan,
        "auc": math.nan,
    }
    if num_foreground:
        scores["pointing_game"] = float((foreground == maximum).sum() / (relevance == maximum).sum())
        scores["energy"] = float(num_foreground / num_pixels if flat else mass / (mass + background.sum()))
        if num_foreground < num_pixels:
            scores["auc"] = roc_auc(foreground, background)
    return scores, {"num_foreground": num_foreground, "num_pixels": num_pixels}


def mean(values: list[float]) -> float | None:
    """Mean over the values that are not NaN, or `None` if there are none. The order does not matter."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RelevanceSegmentation(evaluate.Metric):
    def __init__(self, *args, **kwargs):
        # The base class takes any keyword and ignores those that it does not know.
        unknown = sorted(kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys())
        if unknown:
            raise TypeError(f"relevance_segmentation has no setting {', '.join(unknown)}: it has none of its own")
        super().__init__(*args, **kwargs)

    def _info(self):
        # What an image is reduced to, which is what Arrow stores.
        integer, number = datasets.Value("int64"), datasets.Value("float64")
        features = {
            "predictions": {
                "num_foreground": integer,
                "num_intersection": integer,
                "ap": number,
                "pointing_game": number,
                "energy": number,
                "auc": number,
            },
            "references": {"num_foreground": integer, "num_pixels": integer},
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
            reference_urls=["https://huggingface.co/papers/2206.01161"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add maps and masks. Each pair is reduced to a few numbers at once."""
        if predictions is None or references is None:
            raise ValueError("expected both: maps as predictions and masks as references")
        # One transfer where the batch is on another device.
        predictions, references = (to_numpy(x) if hasattr(x, "shape") else x for x in (predictions, references))
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} maps but {len(references)} masks: expected one for each image")
        pairs = [
            image_numbers(*self._checked(row, to_numpy(relevance), to_numpy(mask)))
            for row, (relevance, mask) in enumerate(zip(predictions, references, strict=True))
        ]
        scores, masks = zip(*pairs, strict=True) if pairs else ((), ())
        super().add_batch(predictions=list(scores), references=list(masks), **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one map and mask."""
        # evaluate.combine gives the plural names here too.
        image = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [value] for name, value in image.items()})

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Scores of all that was added, and of what is given here."""
        if predictions is None and self.writer is None:
            raise ValueError("zero images: add some with add_batch, or give predictions and references to compute")
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _checked(self, row: int, relevance: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map `(H, W)` and bool mask `(H, W)` of one image."""
        where = f"image {len(self) + row} (row {row} of the batch)"
        shapes = [
            image.shape[1:] if image.ndim == 3 and len(image) == 1 else image.shape for image in (relevance, mask)
        ]
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or not relevance.size:
            raise ValueError(
                f"{where} has a map of shape {relevance.shape} and a mask of shape {mask.shape}: expected (H, W) for "
                "both. Resize the map bilinearly, or the mask with nearest neighbours"
            )
        if not (np.isfinite(relevance.min()) and np.isfinite(relevance.max())):
            raise ValueError(
                f"{where} has a map with NaN or infinity: look at the image and at the model, or compute relevance in "
                "float32"
            )
        if not (mask.min() >= 0 and mask.max() <= 1):  # this way round, NaN fails too
            raise ValueError(
                f"{where} has a mask with values from {mask.min()} to {mask.max()}: expected [0, 1], with foreground "
                "from 0.5. Divide masks of 0 and 255 by 255"
            )
        return relevance.reshape(shapes[0]), mask.reshape(shapes[1]) >= 0.5

    def _compute(self, predictions, references):
        if not predictions:
            raise ValueError("zero usable images: every batch that was added was empty")
        intersection = sum(image["num_intersection"] for image in predictions)
        predicted = sum(image["num_foreground"] for image in predictions)
        foreground = sum(image["num_foreground"] for image in references)
        pixels = sum(image["num_pixels"] for image in references)
        union = predicted + foreground - intersection
        background_intersection, background_union = pixels - union, pixels - intersection
        pairs = [(background_intersection, background_union), (intersection, union)]
        ious = [both / either for both, either in pairs if either]
        return {
            "pixel_accuracy": (background_intersection + intersection) / pixels,
            "mean_iou": sum(ious) / len(ious),
            "mean_ap": mean([image["ap"] for image in predictions]),
            "pointing_game": mean([image["pointing_game"] for image in predictions]),
            "energy": mean([image["energy"] for image in predictions]),
            "auc": mean([image["auc"] for image in predictions]),
            "num_images": len(predictions),
            "num_empty_masks": sum(image["num_foreground"] == 0 for image in references),
            "num_full_masks": sum(image["num_foreground"] == image["num_pixels"] for image in references),
        }
