"""Top-1 and top-5 over images, classes and groups; accuracy of the worst group, and background gap."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .base import StreamingMetric, place_of, to_accepted_ids, to_class_subset, to_numpy


TOP = 5


class RobustAccuracy(StreamingMetric):
    """Top-1 and top-5 over images, classes and groups.

    Args:
        class_subset: ids of the classes to which logits are restricted; all by default.

    Example:
        >>> accuracy = RobustAccuracy(class_subset=[0, 2])
        >>> accuracy.update([[4.0, 9.0, 0.0], [1.0, 9.0, 2.0]], [0, [2, 1]])
        >>> accuracy.compute()["top1"]
        1.0
    """

    columns = dict.fromkeys(("rank", "num_ranked", "class_id"), "int64")

    def __init__(self, class_subset: Sequence[int] | None = None):
        super().__init__()
        self.class_subset = to_class_subset(class_subset)

    def reduce(self, predictions, references, first_image: int = 0, groups=None) -> dict[str, np.ndarray]:
        """`rank` of the first accepted id among the top five (5 if none is accepted), `num_ranked` (5 for logits), `class_id` (the first
        accepted id, or -1), `usable`, and `group` if there are groups.

        Args:
            predictions: logits or probabilities `(N, C)`, floating point, of which the lower id ranks first among equals; or ids, integers:
                of the predicted classes `(N,)`, or ranked, best first, `(N, k)`. With k below 5, there is no top-5.
            references: `(N,)`, each an id, or a list of accepted ids, which is empty for an image that does not count; or an array `(N, m)`
                of such lists, padded with -1.
            groups: `(N,)`, strings or numbers.

        Raises:
            ValueError: NaN logits, or ids that do not exist, are not in the subset or come twice (names the row); other lengths, shapes
                or types (names the argument).
        """
        values = predictions if isinstance(predictions, torch.Tensor) else to_numpy(predictions, "predictions")
        if values.ndim and not len(values):
            values = np.empty((0, 1), dtype=int)
        is_float, is_integer = (kind in str(values.dtype) for kind in ("float", "int"))
        if not ((is_float and values.ndim == 2) or (is_integer and values.ndim in (1, 2))):
            raise ValueError(
                f"predictions are {values.dtype} of shape {tuple(values.shape)}: expected logits (N, C) in floating point, "
                "or integer ids (N, k) or (N,). Label names need a label_mapping"
            )
        num_classes = values.shape[1] if is_float else None
        accepted = to_accepted_ids(references, first_image, num_classes, self.class_subset)
        if is_float:
            ids = top_classes(values, self.class_subset, first_image=first_image).cpu().numpy()
        else:
            ids = to_numpy(values, "predictions")
            ids = (ids if ids.ndim == 2 else ids[:, None])[:, :TOP]
            ascending = np.sort(ids, axis=1)
            bad = (ids < 0).any(axis=1) | (ascending[:, 1:] == ascending[:, :-1]).any(axis=1)
            if self.class_subset is not None:
                bad |= ~np.isin(ids, self.class_subset).all(axis=1)
            if bad.any():  # ids are no ranking of classes, such as integer logits
                row = int(bad.argmax())
                raise ValueError(
                    f"the predictions of {place_of(first_image, row)} are {ids[row].tolist()}: expected different ids of classes (in "
                    "class_subset, if it is given), or logits in floating point"
                )
        images = {
            "rank": ranks(ids, accepted),
            "num_ranked": np.full(len(ids), TOP if is_float else ids.shape[1]),
            "class_id": np.array([labels[0] if labels else -1 for labels in accepted], dtype=np.int64),
            "usable": np.array([bool(labels) for labels in accepted], dtype=bool),
        }
        if groups is None:
            return images
        # One by one: in an array with 2.5, the group 1 would become 1.0.
        names = []
        for row, group in enumerate(groups):
            value = to_numpy(group, "groups")
            if value.ndim or value.item() is None or value.item() != value.item():
                raise ValueError(f"the group of {place_of(first_image, row)} is {value}: expected a name")
            names.append(str(value.item()))
        return images | {"group": np.array(names, dtype=object)}

    def scores(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images.

        Returns:
            `top1` and `top5` (fractions of the images), `mean_per_class_top1`, `per_class_top1` (by id, ascending), and the same for top-5;
            `mean_per_group_top1`, `per_group_top1`, … if there are groups; `num_images` (usable) and `num_excluded`.

        Raises:
            ValueError: no image has an accepted id.
        """
        usable = images["usable"]
        keys = {"class": images["class_id"][usable]}
        if "group" in images:
            keys["group"] = images["group"][usable].astype(str)
        results: dict = {}
        for k in (1, TOP) if images["num_ranked"][usable].min() >= TOP else (1,):
            correct = images["rank"][usable] < k
            results[f"top{k}"] = float(correct.mean())
            for name, values in keys.items():
                unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
                means = (np.bincount(inverse, weights=correct) / counts).tolist()
                results[f"mean_per_{name}_top{k}"] = sum(means) / len(means)
                results[f"per_{name}_top{k}"] = dict(zip(unique.tolist(), means, strict=True))
        return results | {"num_images": int(usable.sum()), "num_excluded": int((~usable).sum())}


class BackgroundGap(RobustAccuracy):
    """Accuracy by condition of the Backgrounds Challenge (https://huggingface.co/papers/2006.09994), and BG-Gap. Arguments are those of
    [`RobustAccuracy`]; groups are the conditions.

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
            `bg_gap`, top-1 of `mixed_same` minus top-1 of `mixed_rand`, from -1 to 1; `object_focus`, 1 − BG-Gap / top-1 of `original`
            (`None` without such images, or if none is right; the published figures of https://github.com/visinf/beyond-accuracy divide by
            top-1 on ImageNet instead); `top1` and `num_images` by condition.

        Raises:
            ValueError: no image of `mixed_same` or of `mixed_rand` has an accepted id.
        """
        top1 = super().scores(images).get("per_group_top1", {})
        if missing := {"mixed_same", "mixed_rand"} - top1.keys():
            raise ValueError(f"groups: expected images of {' and '.join(sorted(missing))}, but got {[*top1]}")
        conditions, counts = np.unique(images["group"][images["usable"]].astype(str), return_counts=True)
        gap, original = top1["mixed_same"] - top1["mixed_rand"], top1.get("original")
        return {
            "bg_gap": gap,
            "object_focus": 1 - gap / original if original else None,
            "top1": top1,
            "num_images": dict(zip(conditions.tolist(), counts.tolist(), strict=True)),
        }


class WorstGroupAccuracy(RobustAccuracy):
    """Top-1 of groups, of the worst group, and on average.

    Args:
        group_weights: weight of each group in the average, 0 or more, such as its share of the training images; equal by default.

    Example:
        >>> accuracy = WorstGroupAccuracy()
        >>> accuracy.update([0, 1, 1, 1], [0, 0, 1, 1], groups=["land", "land", "water", "water"])
        >>> accuracy.compute()["worst_group_top1"]
        0.5
    """

    def __init__(self, group_weights: Mapping[str, float] | None = None):
        super().__init__()
        self.group_weights = {str(name): value for name, value in (group_weights or {}).items()}
        if bad := [name for name, weight in self.group_weights.items() if not 0 <= weight < math.inf]:
            raise ValueError(f"the weight of the group {bad[0]} is {self.group_weights[bad[0]]}: expected 0 or more")

    def scores(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images.

        Returns:
            `worst_group_top1` and `worst_group`, its name; `average_top1`, weighted by group; `top1`, of all images;
            `per_group_top1` (by name, ascending); `num_images` (usable) and `num_excluded`. Accuracies are fractions.

        Raises:
            ValueError: images have no groups, a group has no weight, or all have the weight 0.
        """
        scores = super().scores(images)
        by_group = scores.get("per_group_top1", {})
        weights = [self.group_weights.get(name, math.nan) if self.group_weights else 1.0 for name in by_group]
        if not sum(weights) > 0:
            raise ValueError(
                f"groups and group_weights: expected a weight for each group, one of them above 0, but got {[*by_group]} and {self.group_weights}"
            )
        worst = min(by_group, key=by_group.get)
        return {
            "worst_group_top1": by_group[worst],
            "worst_group": worst,
            "average_top1": float(np.average(list(by_group.values()), weights=weights)),
            **{name: scores[name] for name in ("top1", "per_group_top1", "num_images", "num_excluded")},
        }


def top_classes(
    logits: torch.Tensor | np.ndarray, class_subset: Sequence[int] | np.ndarray | None = None, *, first_image: int = 0
) -> torch.Tensor:
    """Ids of the highest logits.

    Args:
        logits: `(N, C)`, floating point.
        class_subset: ascending ids of the classes to which logits are restricted; all by default.

    Returns:
        `(N, 5)` int64, or `(N, C)` for fewer classes, highest first; among equals, the lower id first.
    """
    logits = torch.as_tensor(logits).detach()
    ids = torch.arange(logits.shape[1]) if class_subset is None else torch.as_tensor(np.asarray(class_subset))
    ids = ids.to(logits.device)
    # A copy, in which -inf marks the classes that were taken. Logits of -inf have to be higher.
    scores = (logits if class_subset is None else logits[:, ids]).clamp(min=torch.finfo(logits.dtype).min)
    # Five times `argmax` is faster than sorting, and takes the first among equals.
    best = []
    for _ in range(min(TOP, len(ids))):
        best.append(scores.argmax(dim=1, keepdim=True))
        scores.scatter_(1, best[-1], -torch.inf)
    best = ids[torch.cat(best, dim=1)]
    first = logits.gather(1, best[:, :1]).squeeze(1)
    bad = logits.isnan().any(dim=1) | (first == -torch.inf)
    if bad.any():
        raise ValueError(
            f"the logits of {place_of(first_image, int(bad.int().argmax()))} are NaN, or -inf for every class: "
            "look at the image and the model, or evaluate in float32"
        )
    return best


def ranks(predictions: np.ndarray, accepted: Sequence[Sequence[int]]) -> np.ndarray:
    """Rank `(N,)` from 0 of the first accepted id in predictions `(N, k)`, best first; 5 if none is."""
    pairs = zip(predictions.tolist(), accepted, strict=True)
    first = [next((rank for rank, class_id in enumerate(best) if class_id in labels), TOP) for best, labels in pairs]
    return np.array(first, dtype=np.int64)
