"""BG-Gap and Object Focus: how much of the accuracy depends on the background."""

import numpy as np

from .robust_accuracy import RobustAccuracy


ORIGINAL, SAME, OTHER = "original", "mixed_same", "mixed_rand"


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

    def summarize(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images.

        Returns:
            `bg_gap`, top-1 of `mixed_same` minus that of `mixed_rand`, from -1 to 1; `object_focus`, 1 − BG-Gap / top-1 of
            `original` (`None` without such images, or if none is right; https://github.com/visinf/beyond-accuracy divides
            by top-1 on ImageNet instead, as its published figures do); `top1` by condition; and `num_images` by
            condition.

        Raises:
            ValueError: images have no condition, or there is no usable one of `mixed_same` or of `mixed_rand`.
        """
        if "group" not in images:
            raise ValueError(
                "the images have no condition: load the configuration 'groups', and give each one, such as 'mixed_rand', in groups"
            )
        conditions, counts = np.unique(images["group"][images["usable"]].astype(str), return_counts=True)
        if missing := [name for name in (SAME, OTHER) if name not in conditions]:
            raise ValueError(
                f"zero usable images of `{missing[0]}`: the groups are {', '.join(conditions) or 'none'}, expected "
                f"`{SAME}` and `{OTHER}` among them"
            )
        top1 = super().summarize(images)["per_group_top1"]
        gap, original = top1[SAME] - top1[OTHER], top1.get(ORIGINAL)
        return {
            "bg_gap": gap,
            "object_focus": 1 - gap / original if original else None,
            "top1": top1,
            "num_images": dict(zip(conditions.tolist(), counts.tolist(), strict=True)),
        }
