"""Top-1 of the worst group of images, such as birds of one kind in one place."""

from collections.abc import Mapping

import numpy as np

from .robust_accuracy import RobustAccuracy


class WorstGroupAccuracy(RobustAccuracy):
    """Streaming top-1 of groups, of the worst of them, and on average.

    Args:
        group_weights: weight of each group in the average, such as its share of the training images
            (https://huggingface.co/papers/2012.07421); by default all groups count the same.

    Raises:
        ValueError: a weight is negative, or all are 0.

    Example:
        >>> accuracy = WorstGroupAccuracy()
        >>> accuracy.update([0, 1, 1, 1], [0, 0, 1, 1], groups=["land", "land", "water", "water"])
        >>> accuracy.compute()["worst_group_top1"]
        0.5
    """

    def __init__(self, group_weights: Mapping[str, float] | None = None):
        super().__init__()
        self.group_weights = (
            None if group_weights is None else {str(name): value for name, value in group_weights.items()}
        )
        if self.group_weights is not None and (
            min(self.group_weights.values(), default=0) < 0 or not any(self.group_weights.values())
        ):
            raise ValueError(f"group_weights are {group_weights}: expected numbers from 0, one of them above it")

    def summarize(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images.

        Returns:
            `worst_group_top1` and `worst_group`, its name; `average_top1`, weighted by group; `top1`, of all images;
            `per_group_top1` (by name, ascending); `num_images` (usable) and `num_excluded`. Accuracies are fractions.

        Raises:
            ValueError: images have no group, none has an accepted id, or a group has no weight.
        """
        if "group" not in images:
            raise ValueError(
                "the images have no group: load the configuration 'groups', and give each image one in groups"
            )
        found = super().summarize(images)
        by_group = found["per_group_top1"]
        weights = self.group_weights or dict.fromkeys(by_group, 1.0)
        if missing := [name for name in by_group if name not in weights]:
            raise ValueError(
                f"group_weights have no group {missing[0]!r}: expected one for each of {', '.join(by_group)}"
            )
        total = sum(weights[name] for name in by_group)
        if not total:
            raise ValueError(f"group_weights of {', '.join(by_group)} are 0: expected one above it")
        worst = min(by_group, key=by_group.get)
        return {
            "worst_group_top1": by_group[worst],
            "worst_group": worst,
            "average_top1": sum(weights[name] * value for name, value in by_group.items()) / total,
            **{name: found[name] for name in ("top1", "per_group_top1", "num_images", "num_excluded")},
        }
