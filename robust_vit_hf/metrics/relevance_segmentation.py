"""Agreement of relevance maps with masks, as a metric of `evaluate`; its card is `README.md`."""

import math

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Agreement of relevance maps with foreground masks: the segmentation test of https://huggingface.co/papers/2206.01161
(pixel accuracy, mean IoU, mean AP; Table 3), pointing game, energy on the foreground, and AUC.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: relevance maps `(N, H, W)` or `(N, 1, H, W)`, finite numbers of any range and sign; or a list of maps
        of different sizes. Each map is scaled to [0, 1] by its minimum and maximum.
    references: masks of the same sizes in [0, 1]; 0.5 and more is foreground.

Returns:
    Scores in [0, 1], `None` without images. `pixel_accuracy`: accuracy over all pixels of the set, with maps
    thresholded at their mean. `mean_iou`: IoU over all pixels of the set, averaged over background and foreground (without a class
    that never occurs). `mean_ap`: mean over images of the average precision of the scores (1 - map, map) of all pixels
    for the classes (background, foreground), both in one ranking. `pointing_game`: share of the images with foreground
    whose maximum lies on it. `energy`: mean over these images of the foreground's share of the sum of the map. `auc`:
    mean over the images with both classes of the ROC AUC of the map for the mask. `num_images`, `num_empty_masks`,
    `num_full_masks`. In a constant map, all pixels are maxima, and the energy is spread evenly.

Raises:
    ValueError: maps or masks with NaN or infinity, or of different sizes (names the image, and does not add the
        batch); inputs of different lengths; no images.

Examples:
    >>> segmentation = evaluate.load("eval/relevance_segmentation")
    >>> results = segmentation.compute(predictions=[[[1.0, 0.8], [0.2, 0.0]]], references=[[[1, 0], [0, 0]]])
    >>> results["pixel_accuracy"], results["pointing_game"], results["energy"]
    (0.75, 1.0, 0.5)
"""

_CITATION = """\
@inproceedings{chefer2022optimizing,
  title={Optimizing Relevance Maps of Vision Transformers Improves Robustness},
  author={Chefer, Hila and Schwartz, Idan and Wolf, Lior},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}
"""


def reduce(predictions, references, first_image: int = 0) -> dict[str, list]:
    """Values kept of each image: what [`of_map`] returns, and the number of foreground pixels of its mask.
    `first_image` is the number of the first in the set, for errors."""
    # One transfer if the batch is a tensor, perhaps in bfloat16 or on another device.
    maps, masks = (
        of.detach().cpu().double().numpy() if hasattr(of, "detach") else of for of in (predictions, references)
    )
    numbers, foreground = [], []
    for image, pair in enumerate(zip(maps, masks, strict=True), first_image):
        # One memory layout, since it affects the last bit of means.
        relevance, mask = (np.array(of, np.float64, order="C") for of in pair)
        relevance, mask = (of[0] if of.ndim == 3 and len(of) == 1 else of for of in (relevance, mask))
        if relevance.ndim != 2 or relevance.shape != mask.shape or not mask.size:
            raise ValueError(f"image {image} has a map {relevance.shape} and a mask {mask.shape}: expected (H, W)")
        if not (np.isfinite(relevance).all() and np.isfinite(mask).all()):
            raise ValueError(f"image {image} has a map or mask with NaN or infinity: look at it, or use float32")
        numbers.append(of_map(relevance, mask >= 0.5))
        foreground.append(int((mask >= 0.5).sum()))
    return {"predictions": numbers, "references": foreground}


def of_map(relevance: np.ndarray, mask: np.ndarray) -> list[float]:
    """Numbers of pixels (of the thresholded map, of its intersection with the mask, and all), average precision, and
    pointing game, energy and AUC (NaN if undefined) of a map `(H, W)` float64 and a mask `(H, W)` bool."""
    low, high = relevance.min(), relevance.max()
    flat = low == high
    relevance = np.zeros_like(relevance) if flat else (relevance - low) / (high - low)
    predicted = relevance > relevance.mean()
    foreground, background = np.sort(relevance[mask]), np.sort(relevance[~mask])
    maximum, mass = relevance.max(), foreground.sum()
    pointing_game = energy = auc = math.nan
    if len(foreground):
        pointing_game = (foreground == maximum).sum() / (relevance == maximum).sum()
        energy = len(foreground) / mask.size if flat else mass / (mass + background.sum())
        if len(background):
            # Probability that a foreground pixel exceeds a background pixel; ties count half.
            below, up_to = (np.searchsorted(background, foreground, side=side) for side in ("left", "right"))
            auc = (below + up_to).sum() / (2 * len(foreground) * len(background))
    precision = average_precision(foreground, background)
    numbers = predicted.sum(), predicted[mask].sum(), mask.size, precision, pointing_game, energy, auc
    return [float(number) for number in numbers]


def average_precision(foreground: np.ndarray, background: np.ndarray) -> float:
    """AP over the scores (1 - map, map) of all pixels; ascending values are equal if they agree to 2^-40."""
    one = 2.0**40
    # A pixel scores s for its class and 1 - s for the other: negatives mirror positives, so one array ranks both.
    positive = np.concatenate([np.rint(one * foreground), one - np.rint(one * background[::-1])])
    positive.sort()
    positives_above = len(positive) - np.searchsorted(positive, positive, side="left")
    negatives_above = np.searchsorted(positive, (one - positive)[::-1], side="right")[::-1]
    return float(np.mean(positives_above / (positives_above + negatives_above)))


def scores(predictions, references) -> dict:
    """The result for what [`reduce`] keeps of all images, in any order."""
    if not len(references):
        raise ValueError("zero usable images were added")
    masks, columns = np.array(references), np.array(predictions).T
    predicted, intersection, pixels = (int(column.sum()) for column in columns[:3])
    union = predicted + int(masks.sum()) - intersection
    background_intersection, background_union = pixels - union, pixels - intersection
    pairs = [(background_intersection, background_union), (intersection, union)]
    ious = [both / either for both, either in pairs if either]
    known = [column[~np.isnan(column)] for column in columns[3:]]
    # fsum is exact, so that the order of the images does not matter.
    means = [math.fsum(values) / len(values) if len(values) else None for values in known]
    return {
        "pixel_accuracy": (background_intersection + intersection) / pixels,
        "mean_iou": sum(ious) / len(ious),
        **dict(zip(("mean_ap", "pointing_game", "energy", "auc"), means, strict=True)),
        "num_images": len(masks),
        "num_empty_masks": int((masks == 0).sum()),
        "num_full_masks": int((masks == columns[2]).sum()),
    }


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RelevanceSegmentation(evaluate.Metric):
    def _info(self):
        numbers = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": numbers, "references": datasets.Value("int64")}),
            reference_urls=["https://huggingface.co/papers/2206.01161"],
        )

    def add_batch(self, *, predictions=None, references=None):
        """Add maps and masks, of which eight numbers per image are kept."""
        super().add_batch(**reduce(predictions, references, first_image=len(self)))

    def add(self, *, prediction=None, reference=None, **columns):
        """Add one image."""
        image = {"predictions": prediction, "references": reference} | columns  # `evaluate.combine` uses these names
        self.add_batch(**{name: [value] for name, value in image.items()})

    def _compute(self, predictions, references):
        return scores(predictions, references)
