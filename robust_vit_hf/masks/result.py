"""What every mask maker gives for an image."""

from dataclasses import dataclass

from PIL import Image


@dataclass
class MaskResult:
    """Foreground mask of one image, and what is to be known about it.

    Args:
        mask: mode "L", 0 background and 255 foreground, of the image's size; `None` where none could be made.
        note: what a user should know: a fallback that was taken, the boxes that were found.
        rejected: why the mask should not be trained on, or `None` if it may be. A rejected mask is kept, if there is one,
            so that it can be looked at.
    """

    mask: Image.Image | None
    note: str | None = None
    rejected: str | None = None
