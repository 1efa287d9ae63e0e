"""`attribution.png` of `robust-vit segment`: images with the maps of all attribution methods side by side."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import torch

from ..data.transforms import segmentation_transform
from ..models.image_processors import squash_resample
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..relevance.overlay import denormalize, overlay
from ..utils.plotting import save_picture_grid
from .before_after_examples import may_be_shown
from .session import Session


FIGURE_FILE = "attribution.png"
NUM_EXAMPLES = 8


def write_attribution_figure(session: Session, rows: datasets.Dataset, methods: Sequence[str], path: Path) -> None:
    """Write the figure of a few images with masks, evenly spaced among those that may be shown, if there are any."""
    shown = may_be_shown(rows).nonzero()[0]
    count = min(NUM_EXAMPLES, len(shown))
    if not count:
        return
    examples = rows.select([shown[index * len(shown) // count] for index in range(count)])
    # Each image as the model sees it, its mask, and the map of the predicted class by model and attribution method.
    columns: list[tuple[str, torch.Tensor]] = []
    for name, side in session.sides.items():
        transform = segmentation_transform(side.processor, squash_resample(side.processor))
        batch = examples.select_columns(["image", "mask"]).with_transform(transform)[:]
        pixel_values, masks = torch.stack(batch["pixel_values"]), torch.stack(batch["mask"])
        images = denormalize(pixel_values, side.processor)
        columns = columns or [("image", images), ("mask", masks.expand_as(images))]
        for method in methods:
            with torch.no_grad():
                output = ATTRIBUTION_METHODS[method](side.model, pixel_values.to(session.accelerator.device))
            caption = f"{method}\n{name}" if len(session.sides) > 1 else method
            columns.append((caption, overlay(images, output.relevance.cpu())))
    grid = [[(name, pictures[row].permute(1, 2, 0).numpy()) for name, pictures in columns] for row in range(count)]
    save_picture_grid(grid, path)
