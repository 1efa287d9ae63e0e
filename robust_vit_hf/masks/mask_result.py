"""Result of a mask maker for an image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image


Prompts = Callable[[Any], Sequence[str] | None]  # names to look for, by label; `None` for a label without


@dataclass
class MaskResult:
    """Foreground mask of one image.

    Args:
        mask: mode "L", 0 background and 255 foreground, of the image's size; `None` if none could be made.
        note: note for the user, such as a fallback or the boxes found.
        rejected: why the mask should not be trained on, or `None`. A rejected mask is kept for inspection.
    """

    mask: Image.Image | None
    note: str | None = None
    rejected: str | None = None


def names_to_find(row: dict, prompts: Prompts) -> list[str]:
    """Names with which a maker looks for the object of a row.

    Raises:
        ValueError: the row has no label, or its label no names, or an empty one.
    """
    label = row.get("label")
    names = None if label is None else prompts(label)
    # A name of full stops alone is empty for Grounding DINO, whose prompts they separate.
    if not names or isinstance(names, str) or not all(name.replace(".", " ").strip() for name in names):
        raise ValueError(
            f"The prompt for the label {label!r} is {names!r}, expected a list with at least one name: give images with named "
            "classes, or add it to the prompts."
        )
    return list(names)
