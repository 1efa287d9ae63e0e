"""Figures of images with their relevance maps or subsets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure

from ..data.transforms import segmentation_transform
from ..models.preprocessing import squash_resample
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..relevance.overlay import denormalize, overlay
from ..utils.plotting import PICTURE_AXES, plain
from .relevance_examples import Example
from .session import Side


def before_after_figure(
    rows: Sequence[Mapping[str, Sequence[Example]]], targets: Sequence[str] = ("predicted", "true")
) -> Figure:
    """Figure of images with their relevance maps before and after: one column per image, groups side by side.

    Args:
        rows: examples by title for each row of the figure. Empty groups are left out; at least one must not be empty.
        targets: classes whose maps are shown (`predicted`, `true`). With both, `true` only where the prediction is
            wrong.
    """
    rows = [{title: examples for title, examples in row.items() if examples} for row in rows]
    rows = [row for row in rows if row]
    lines = 2 + len(targets)  # pictures of a column
    columns = [[max(len(examples), 3) for examples in row.values()] for row in rows]  # space for the title
    figure = Figure((1.45 * max(map(sum, columns)), 1.8 * lines * len(rows)), layout="constrained")
    bands = figure.subfigures(len(rows), 1, squeeze=False, hspace=0.02)[:, 0]
    for band, widths, row in zip(bands, columns, rows, strict=True):
        rest = [max(map(sum, columns)) - sum(widths)]  # padding, so that all pictures have the same size
        shares = [width for width in widths + rest if width]
        parts = np.atleast_1d(band.subfigures(1, len(shares), width_ratios=shares, wspace=0.03))
        for part, width, (title, examples) in zip(parts, widths, row.items(), strict=False):
            part.suptitle(plain(title), fontweight="bold", fontsize=9)
            axes = part.subplots(lines, width, squeeze=False, subplot_kw=PICTURE_AXES)
            for column, example in enumerate(examples):
                pictures = [(f"{example.set_name}\n{example.label}", example.image)]
                for side, predicted in example.predicted.items():
                    for target in targets:
                        if target == "predicted" or len(targets) == 1 or predicted != example.label:
                            named = predicted if target == "predicted" else example.label
                            pictures.append((f"{side}, {target}:\n{named}", example.maps[side, target]))
                for axis, (caption, picture) in zip(axes[:, column], pictures, strict=False):
                    axis.imshow(picture)
                    axis.set_title(plain(caption), fontsize=8)
    return figure


def save_attribution_figure(
    sides: Mapping[str, Side],
    rows: datasets.Dataset,
    methods: Sequence[str],
    path: Path,
) -> None:
    """Save a figure with one row per image: image | mask | map of the predicted class by model and attribution method.

    Args:
        sides: models by name, such as `before` and `after`.
        rows: dataset with `image` and `mask`.
        methods: names from `ATTRIBUTION_METHODS`.
    """
    titles, columns = ["image", "mask"], []
    for name, side in sides.items():
        transform = segmentation_transform(side.processor, squash_resample(side.processor))
        batch = rows.select_columns(["image", "mask"]).with_transform(transform)[:]
        pixel_values, masks = torch.stack(batch["pixel_values"]), torch.stack(batch["mask"])
        images = denormalize(pixel_values, side.processor)
        columns = columns or [images, masks.expand_as(images)]
        for method in methods:
            with torch.no_grad():
                output = ATTRIBUTION_METHODS[method](side.model, pixel_values.to(next(side.model.parameters()).device))
            columns.append(overlay(images, output.relevance.cpu()))
            titles.append(f"{method}\n{name}" if len(sides) > 1 else method)

    figure = Figure((1.2 * len(columns), 1.2 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False, subplot_kw=PICTURE_AXES)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(plain(title), fontsize=8)
    for index, row in enumerate(axes):
        for axis, pictures in zip(row, columns, strict=True):
            axis.imshow(pictures[index].permute(1, 2, 0).numpy())
    figure.savefig(path, dpi=75)


def issue_figure(rows: Mapping[str, Sequence[Example]]) -> Figure:
    """Figure with a titled row per entry: each image beside the map of its predicted class before finetuning. At least
    one row must have an example."""
    rows = {title: examples for title, examples in rows.items() if examples}
    columns = max(map(len, rows.values()))
    figure = Figure((2.7 * columns, 2.1 * len(rows)), layout="constrained")
    bands = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for band, (title, examples) in zip(bands, rows.items(), strict=True):
        band.suptitle(plain(title), fontweight="bold", fontsize=9)
        axes = band.subplots(1, 2 * columns, squeeze=False, subplot_kw=PICTURE_AXES)[0]
        for place, example in enumerate(examples):
            left, right = axes[2 * place : 2 * place + 2]
            left.imshow(example.image)
            left.set_title(plain(example.label), fontsize=8)
            right.imshow(example.maps["before", "predicted"])
            caption = f"{example.predicted['before']}, {example.confidence['before']:.0%}"
            right.set_title(plain(caption), fontsize=8)
    return figure


def save_picture_grid(rows: Sequence[Sequence[tuple[str, torch.Tensor]]], path: Path) -> None:
    """Save a grid of captioned pictures `(3, H, W)` in [0, 1]. All rows have the same length."""
    figure = Figure((1.5 * len(rows[0]), 1.85 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, subplot_kw=PICTURE_AXES)
    for axes, pictures in zip(grid, rows, strict=True):
        for axis, (caption, picture) in zip(axes, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            axis.set_title(plain(caption), fontsize=7)
    figure.savefig(path, dpi=100)
