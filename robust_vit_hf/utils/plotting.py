"""Pictures and text in figures of matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


# Axes that hold a picture and a title. Ticks take a third of the time to draw, also when `axis("off")` hides them.
PICTURE_AXES = {"frame_on": False, "xticks": [], "yticks": []}


def plain(text: str) -> str:
    """Text without mathematics, whatever a class or set is called: matplotlib would parse `$…$`, and fail on most of it."""
    return text.replace("$", r"\$")


def save_picture_grid(rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: Path) -> None:
    """Save a grid of pictures `(H, W, 3)`, in [0, 1] or of 8 bits, each below its caption. The first row is the longest."""
    from matplotlib.figure import Figure

    figure = Figure((1.5 * len(rows[0]), 1.85 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, subplot_kw=PICTURE_AXES)
    for axes, pictures in zip(grid, rows, strict=True):
        for axis, (caption, picture) in zip(axes, pictures, strict=False):
            axis.imshow(picture)
            axis.set_title(plain(caption), fontsize=7)
    figure.savefig(path, dpi=100)
