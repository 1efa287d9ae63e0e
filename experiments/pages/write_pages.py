"""Write what committed results say into README, docs, the pages of this folder and the bundled recipe.

    python -m experiments write_pages

Blocks of text between `results: NAME` and `end of results` are made again, and the picture of gain and loss; a test
compares all of them with the files. The picture holds the points that it shows as text, which the test compares:
pixels differ between releases of matplotlib.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from robust_vit_hf.results.plots import figure_bytes

from ..scripts import script_parser
from . import (
    costs,
    elsewhere,
    emoji_shift_claims,
    experiment,
    gains,
    pasted_objects,
    planted,
    real_photographs,
    without_model,
)
from .text_blocks import BLOCK, ROOT, texts


PICTURE = ROOT / "experiments" / "gain_and_loss.png"
BLOCKS: dict[str, Callable[[], str]] = {
    **experiment.BLOCKS,
    **emoji_shift_claims.BLOCKS,
    **pasted_objects.BLOCKS,
    **gains.BLOCKS,
    **planted.BLOCKS,
    **without_model.BLOCKS,
    **real_photographs.BLOCKS,
    **elsewhere.BLOCKS,
    **costs.BLOCKS,
}


def main() -> None:
    script_parser(__doc__).parse_args()
    for path in texts():
        path.write_text(written_anew(path), encoding="utf-8")
    text, figure = PngInfo(), experiment.price_picture()
    text.add_text("points", points_of(figure))
    Image.open(io.BytesIO(figure_bytes(figure, "png"))).save(PICTURE, pnginfo=text)


def written_anew(path: Path) -> str:
    """A text with its blocks made again."""
    text = path.read_text(encoding="utf-8")
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", text)


def points_of(figure: Figure) -> str:
    """Lines and intervals of a figure, in points of top-1, as JSON."""
    (axis,) = figure.axes
    lines = [[line.get_label(), line.get_xydata()] for line in axis.lines]
    lines += [["interval", segment] for interval in axis.collections for segment in interval.get_segments()]
    return json.dumps([[label, np.round(places, 2).tolist()] for label, places in lines])
