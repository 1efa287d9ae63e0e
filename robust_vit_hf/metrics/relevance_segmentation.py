"""Agreement of relevance maps with masks: the paper's segmentation test, pointing game, energy on the object, and AUC."""

import math

import numpy as np

from .base import StreamingMetric, place_of, to_numbers, to_numpy


class RelevanceSegmentation(StreamingMetric):
    """Agreement of relevance maps with foreground masks.

    Example:
        >>> segmentation = RelevanceSegmentation()
        >>> segmentation.update([[[1.0, 0.8], [0.2, 0.0]]], [[[1, 0], [0, 0]]])
        >>> scores = segmentation.compute()
        >>> scores["pixel_accuracy"], scores["pointing_game"], scores["energy"]
        (0.75, 1.0, 0.5)

    Source: Table 3 of https://huggingface.co/papers/2206.01161
    """

    columns = dict.fromkeys(("foreground", "predicted", "intersection", "pixels"), "int64") | dict.fromkeys(
        ("ap", "pointing_game", "energy", "auc"), "float64"
    )

    def reduce(self, predictions, references, first_image: int = 0) -> dict[str, np.ndarray]:
        """Numbers of pixels (`foreground` of the mask, `predicted` of the thresholded map, their `intersection`, and all `pixels`), `ap`,
        `pointing_game`, `energy` and `auc` (NaN if undefined), and `usable` (always true).

        Args:
            predictions: relevance maps `(N, H, W)` or `(N, 1, H, W)`, finite numbers of any range and sign; or a list of maps of different
                sizes. Each map is scaled to [0, 1] by its minimum and maximum.
            references: masks of the same sizes in [0, 1]; 0.5 and more is foreground.

        Raises:
            ValueError: maps or masks with NaN or infinity, or of different sizes (names the row); inputs of different lengths (names the
                argument).
        """
        # One transfer if the batch is on another device.
        predictions, references = (to_numpy(x) if hasattr(x, "shape") else x for x in (predictions, references))
        rows = [
            _numbers(relevance, mask, place_of(first_image, row))
            for row, (relevance, mask) in enumerate(zip(predictions, references, strict=True))
        ]
        images = {name: np.array([row[name] for row in rows], dtype) for name, dtype in self.columns.items()}
        return images | {"usable": np.ones(len(rows), dtype=bool)}

    def scores(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images, in [0, 1].

        Returns:
            `pixel_accuracy`: accuracy over all pixels of the set, with maps thresholded at their mean. `mean_iou`: IoU over all pixels of
            the set, averaged over background and foreground (without a class that never occurs). `mean_ap`: mean over images of the
            average precision of the scores (1 − map, map) of all pixels for the classes (background, foreground), both in one ranking.
            `pointing_game`: share of the images with foreground whose maximum lies on it. `energy`: mean over these images of the
            foreground's share of the sum of the map. `auc`: mean over the images with both classes of the ROC AUC of the map for the mask.
            `num_images`, `num_empty_masks`, `num_full_masks`. Scores without images are `None`. In a constant map, all pixels are maxima,
            and the energy is spread evenly.
        """
        intersection, predicted, foreground, pixels = (
            int(images[name].sum()) for name in ("intersection", "predicted", "foreground", "pixels")
        )
        union = predicted + foreground - intersection
        background_intersection, background_union = pixels - union, pixels - intersection
        pairs = [(background_intersection, background_union), (intersection, union)]
        ious = [both / either for both, either in pairs if either]
        return {
            "pixel_accuracy": (background_intersection + intersection) / pixels,
            "mean_iou": sum(ious) / len(ious),
            "mean_ap": _mean(images["ap"]),
            **{name: _mean(images[name]) for name in ("pointing_game", "energy", "auc")},
            "num_images": len(images["pixels"]),
            "num_empty_masks": int((images["foreground"] == 0).sum()),
            "num_full_masks": int((images["foreground"] == images["pixels"]).sum()),
        }


def average_precision(foreground: np.ndarray, background: np.ndarray) -> float:
    """AP over the scores (1 - map, map) of all pixels; ascending values are equal if they agree to 2^-40."""
    one = 2.0**40
    # A pixel scores s for its class and 1 - s for the other: negatives mirror positives, so one sorted array ranks both.
    positive = np.concatenate([np.rint(one * foreground), one - np.rint(one * background[::-1])])
    positive.sort()
    positives_above = len(positive) - np.searchsorted(positive, positive, side="left")
    negatives_above = np.searchsorted(positive, (one - positive)[::-1], side="right")[::-1]
    return float(np.mean(positives_above / (positives_above + negatives_above)))


def _numbers(relevance, mask, where: str) -> dict[str, float]:
    relevance = to_numbers(relevance, f"the map of {where} in predictions", 2, most=3)
    mask = to_numbers(mask, f"the mask of {where} in references", 2, most=3)
    size = relevance.shape[-2:]
    if mask.shape[-2:] != size or {relevance.size, mask.size} != {math.prod(size)}:
        shapes = f"a map of shape {relevance.shape} in predictions and a mask of {mask.shape} in references"
        raise ValueError(f"{where} has {shapes}: expected the same height and width, and no further axes")
    if not (np.isfinite(relevance).all() and np.isfinite(mask).all()):
        raise ValueError(
            f"{where} has a map or mask with NaN or infinity: look at the image and the model, or compute relevance in float32"
        )
    mask = mask.reshape(size) >= 0.5
    # One memory layout, since it affects the last bit of means.
    relevance = relevance.reshape(size).astype(np.float64, order="C")
    low, high = relevance.min(), relevance.max()
    flat = low == high
    relevance = np.zeros_like(relevance) if flat else (relevance - low) / (high - low)
    predicted = relevance > relevance.mean()
    foreground, background = np.sort(relevance[mask]), np.sort(relevance[~mask])
    maximum, mass = relevance.max(), foreground.sum()
    numbers = {
        "foreground": len(foreground),
        "predicted": int(predicted.sum()),
        "intersection": int(predicted[mask].sum()),
        "pixels": mask.size,
        "ap": average_precision(foreground, background),
        "pointing_game": math.nan,
        "energy": math.nan,
        "auc": math.nan,
    }
    if len(foreground):
        numbers["pointing_game"] = float((foreground == maximum).sum() / (relevance == maximum).sum())
        numbers["energy"] = float(len(foreground) / mask.size if flat else mass / (mass + background.sum()))
        if len(background):
            # Probability that a foreground pixel exceeds a background pixel; ties count half.
            below, up_to = (np.searchsorted(background, foreground, side=side) for side in ("left", "right"))
            numbers["auc"] = float((below + up_to).sum() / (2 * len(foreground) * len(background)))
    return numbers


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return math.fsum(known) / len(known) if len(known) else None
