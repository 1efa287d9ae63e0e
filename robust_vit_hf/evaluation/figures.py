"""Figures of images with their relevance maps."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from transformers import BaseImageProcessor

from ..data.transforms import segmentation_transform
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..relevance.overlay import denormalize, overlay


def save_before_after_figure(groups: dict[str, list[dict]], path: Path) -> None:
    """Figure of test images with their relevance before and after, for the predicted class and for the true one, a column
    for each image.

    Args:
        groups: images by title, each a dict with `image` `(3, H, W)` in [0, 1], `before` and `after` `(2, 1, H, W)` (the maps
            of the predicted class and of the true one), and the names `set_name`, `label`, `predicted_before` and
            `predicted_after`. Empty groups are left out.
    """
    groups = {title: examples for title, examples in groups.items() if examples}
    if not groups:
        return
    num_columns = max(len(examples) for examples in groups.values())
    figure = Figure((max(1.5 * num_columns + 0.6, 4.5), 8.2 * len(groups)), layout="constrained")
    for part, (title, examples) in zip(np.atleast_1d(figure.subfigures(len(groups), 1)), groups.items(), strict=True):
        part.suptitle(title, fontweight="bold")
        axes = part.subplots(5, num_columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for column, example in enumerate(examples):
            image = example["image"]
            pictures, captions = [image], [f"{example['set_name']}\n{example['label']}"]
            for side in ("before", "after"):
                pictures += overlay(image.expand(2, -1, -1, -1), example[side])
                captions += [
                    f"{side}, predicted:\n{example[f'predicted_{side}']}",
                    f"{side}, true:\n{example['label']}",
                ]
            for axis, picture, caption in zip(axes[:, column], pictures, captions, strict=True):
                axis.imshow(picture.permute(1, 2, 0).numpy())
                axis.set_title(caption, fontsize=8)
    figure.savefig(path, dpi=90)


def save_attribution_figure(
    models: dict[str, nn.Module],
    processors: dict[str, BaseImageProcessor],
    rows: datasets.Dataset,
    methods: Sequence[str],
    path: Path,
) -> None:
    """Figure with a row for each image: image | mask | the map of each model and attribution method for the predicted class.

    Args:
        models, processors: by side, such as `before` and `after`.
        rows: `image` and `mask`.
        methods: names from `ATTRIBUTION_METHODS`.
    """
    titles, columns = ["image", "mask"], []
    for side, model in models.items():
        batch = rows.select_columns(["image", "mask"]).with_transform(segmentation_transform(processors[side]))[:]
        pixel_values, masks = torch.stack(batch["pixel_values"]), torch.stack(batch["mask"])
        images = denormalize(pixel_values, processors[side])
        columns = columns or [images, masks.expand_as(images)]
        for method in methods:
            with torch.no_grad():
                output = ATTRIBUTION_METHODS[method](model, pixel_values.to(next(model.parameters()).device))
            columns.append(overlay(images, output.relevance.cpu()))
            titles.append(f"{method}\n{side}" if len(models) > 1 else method)

    figure = Figure((1.2 * len(columns), 1.2 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    for index, row in enumerate(axes):
        for axis, pictures in zip(row, columns, strict=True):
            axis.imshow(pictures[index].permute(1, 2, 0).numpy())
            axis.axis("off")
    figure.savefig(path, dpi=75)
