"""What counts as right on a set: under the protocol of the paper, and under the usual one."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import datasets

from ..data import load_image_set
from ..data.imagenet_classes import subset, wnids
from ..data.objectnet import BORDER
from ..data.sets import prepared_options


Protocol = Literal["paper", "standard"]
# Protocol to preset of the image processor.
PRESETS: dict[str, str] = {"paper": "paper", "standard": "native"}


@dataclass(frozen=True)
class EvaluationSet:
    """A set under a protocol.

    Args:
        dataset: rows with `image`, and what else there is: `mask`, `file_name`, and factors.
        accepted: labels that are right for each image; none for an image that does not count. `None` for a set without
            labels.
        class_subset: the classes that are ranked; `None` for all of the model's.
        num_classes: number of classes that the model must have, where it is known.
        border: pixels to cut at each edge of an image.
    """

    dataset: datasets.Dataset
    accepted: list[list[int]] | None = None
    class_subset: tuple[int, ...] | None = None
    num_classes: int | None = None
    border: int = 0

    @classmethod
    def of(cls, dataset: datasets.Dataset, num_classes: int | None = None) -> "EvaluationSet":
        """A set as it is: every label counts, and all classes are ranked. An image whose label is `None` or -1, as those
        of test sets are, does not count."""
        if "label" not in dataset.column_names:
            return cls(dataset)
        labels = dataset.with_format(None)["label"]
        accepted = [label if isinstance(label, list) else [] if label in (None, -1) else [label] for label in labels]
        return cls(dataset.remove_columns("label"), accepted, num_classes=num_classes)

    def digest(self) -> str:
        """16 hexadecimal digits that change with what counts as right, with the classes that are ranked, and with the file
        names where the set has them: results with another digest are of other rows."""
        file_names = self.dataset["file_name"][:] if "file_name" in self.dataset.column_names else None
        identity = repr((self.accepted, self.class_subset, file_names)).encode()
        return hashlib.sha256(identity).hexdigest()[:16]

    def check_model(self, name: str, num_labels: int) -> None:
        """Refuse a model that was not made for the classes of the set.

        Args:
            name: how to call the set in errors.
            num_labels: number of classes of the model.

        Raises:
            ValueError: the number of classes differs, a label is none of the model's, or there is no image, or none with a
                label.
        """
        if not len(self.dataset):
            raise ValueError(f"`{name}` has no images.")
        if self.accepted is None:
            return
        if self.num_classes not in (None, num_labels):
            raise ValueError(
                f"`{name}` has {self.num_classes} classes, but the model has {num_labels}, which must be others. Give a "
                "model with a head for the classes of this set."
            )
        if not any(self.accepted):
            raise ValueError(f"`{name}` has no usable image: of {len(self.accepted)}, none has a label.")
        highest = max(max(labels) for labels in self.accepted if labels)
        if highest >= num_labels:
            raise ValueError(
                f"`{name}` has the label {highest}, but the model has the classes 0–{num_labels - 1}: labels must be "
                "indices of the model's classes."
            )


def load_evaluation_set(name: str, source: str | None, protocol: Protocol) -> EvaluationSet:
    """A set of the paper under a protocol.

    `paper`: all 1000 classes are ranked; of an ObjectNet image, the first accepted label counts alone, and its red border
    stays. `standard`: the 200 classes of ImageNet-A and -R and the 125 of ObjectNet are ranked alone, any accepted label
    is right, and the border is cut.

    Args:
        name: one of `image_sets()`.
        source: where it is, as for [`load_image_set`].

    Raises:
        As [`load_image_set`].
    """
    standard = protocol == "standard"
    # The border is cut while an image is read: a copy of the set without it would fill the disk.
    options = {"cropped": False} if name == "objectnet" and not standard else {}
    rows = EvaluationSet.of(load_image_set(name, source, **options), num_classes=len(wnids()))
    if name == "objectnet":
        if not standard:
            return replace(rows, accepted=[labels[:1] for labels in rows.accepted])
        border = 0 if prepared_options(source).get("cropped") else BORDER
        return replace(rows, class_subset=tuple(sorted(set().union(*rows.accepted))), border=border)
    if standard and name in ("imagenet-a", "imagenet-r"):
        return replace(rows, class_subset=subset(name))
    return rows
