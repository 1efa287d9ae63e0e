"""Result of a mask maker for an image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass
class MaskResult:
    """Foreground mask of one image. A rejected one is kept for inspection."""

    mask: Image.Image | None  # mode "L", 0 background and 255 foreground, of the image's size; `None` if there is none
    note: str | None = None  # for the user, such as a fallback or the boxes found
    rejected: str | None = None  # why the mask should not be trained on

    @classmethod
    def of(cls, foreground: np.ndarray, note: str | None = None, rejected: str | None = None) -> "MaskResult":
        """Result of foreground pixels `(H, W)`, bool."""
        return cls(Image.fromarray(foreground.astype(np.uint8) * 255), note, rejected)
