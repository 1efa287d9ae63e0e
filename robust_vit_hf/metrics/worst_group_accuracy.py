"""Top-1 of the worst group of images, such as birds of one kind in one place."""

import math
from collections.abc import Mapping

import numpy as np

from .robust_accuracy import RobustAccuracy


class WorstGroupAccuracy(RobustAccuracy):
    """Streaming top-1 of groups, of the worst of them, and on average.

    Args:
        group_weights: weight of each group in the average, a finite number from 0 on, such as its share of the training images
            (https://huggingface.co/papers/2012.07421); by default all groups count the same.

    Example:
        >>> accuracy = WorstGroupAccuracy()
        >>> accuracy.update([0, 1, 1, 1], [0, 0, 1, 1], groups=["land", "land", "water", "water"])
        >>> accuracy.compute()["worst_group_top1"]
        0.5
    """

    def __init__(self, group_weights: Mapping[str, float] | None = None):
        super().__init__()
        self.group_weights = {str(name): value for name, value in (group_weights or {}).items()}
        if bad := [name for name, value in self.group_weights.items() if not 0 <= value < math.inf]:
            raise ValueError(
                f"the weight of the group {bad[0]} is {self.group_weights[bad[0]]}: expected a number from 0 on"
            )

    def scores(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images.

        Returns:
            `worst_group_top1` and `worst_group`, its name; `average_top1`, weighted by group; `top1`, of all images;
            `per_group_top1` (by name, ascending); `num_images` (usable) and `num_excluded`. Accuracies are fractions.

        Raises:
            KeyError: images have no groups, or a group has no weight.
        """
        scores = super().scores(images)
        by_group = scores["per_group_top1"]
        weights = [self.group_weights[name] if self.group_weights else 1.0 for name in by_group]
        worst = min(by_group, key=by_group.get)
        return {
            "worst_group_top1": by_group[worst],
            "worst_group": worst,
            "average_top1": float(np.average(list(by_group.values()), weights=weights)),
            **{name: scores[name] for name in ("top1", "per_group_top1", "num_images", "num_excluded")},
        }
