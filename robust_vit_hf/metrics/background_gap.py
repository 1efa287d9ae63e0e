"""BG-Gap and Object Focus: how much of the accuracy depends on the background."""

import numpy as np

from .robust_accuracy import RobustAccuracy


class BackgroundGap(RobustAccuracy):
    """Streaming accuracy by condition of the Backgrounds Challenge (https://huggingface.co/papers/2006.09994), with the
    gap between the backgrounds of the own class and of others.

    Args:
        class_subset: as for [`RobustAccuracy`].

    Example:
        >>> gap = BackgroundGap()
        >>> gap.update([0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1], groups=["original"] * 2 + ["mixed_same"] * 2 + ["mixed_rand"] * 2)
        >>> scores = gap.compute()
        >>> scores["bg_gap"], scores["object_focus"]
        (0.5, 0.5)
    """

    def scores(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images.

        Returns:
            `bg_gap`, top-1 of `mixed_same` minus that of `mixed_rand`, from -1 to 1; `object_focus`, 1 − BG-Gap / top-1 of
            `original` (`None` without such images, or if none is right; https://github.com/visinf/beyond-accuracy divides
            by top-1 on ImageNet instead, as its published figures do); `top1` by condition; and `num_images` by
            condition.

        Raises:
            KeyError: images have no conditions, or there is no usable image of `mixed_same` or of `mixed_rand`.
        """
        top1 = super().scores(images)["per_group_top1"]
        conditions, counts = np.unique(images["group"][images["usable"]].astype(str), return_counts=True)
        gap, original = top1["mixed_same"] - top1["mixed_rand"], top1.get("original")
        return {
            "bg_gap": gap,
            "object_focus": 1 - gap / original if original else None,
            "top1": top1,
            "num_images": dict(zip(conditions.tolist(), counts.tolist(), strict=True)),
        }
