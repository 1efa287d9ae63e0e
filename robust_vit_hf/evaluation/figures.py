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
    """Figure of test images with their relevance before and after, for the predicted class and, where a prediction is wrong, for
    the true one too: a column for each image, groups side by side.

    Args:
        groups: images by title, each a dict with `image` `(3, H, W)` in [0, 1], `before` and `after` `(2, 1, H, W)` (the maps
            of the predicted class and of the true one), and the names `set_name`, `label`, `predicted_before` and
            `predicted_after`. Empty groups are left out.
    """
    groups = {title: examples for title, examples in groups.items() if examples}
    if not groups:
        return
    num_columns = [max(len(examples), 3) for examples in groups.values()]  # no fewer, for the title
    figure = Figure((1.45 * sum(num_columns), 7.2), layout="constrained")
    parts = np.atleast_1d(figure.subfigures(1, len(groups), width_ratios=num_columns, wspace=0.03))
    for part, columns, (title, examples) in zip(parts, num_columns, groups.items(), strict=True):
        part.suptitle(title, fontweight="bold", fontsize=9)
        axes = part.subplots(4, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for column, example in enumerate(examples):
            image = example["image"]
            pictures, captions = [image], [f"{example['set_name']}\n{example['label']}"]
            for side in ("before", "after"):
                predicted, maps = example[f"predicted_{side}"], overlay(image.expand(2, -1, -1, -1), example[side])
                pictures.append(maps[0])
                captions.append(f"{side}, predicted:\n{predicted}")
                if predicted != example["label"]:
                    pictures.append(maps[1])
                    captions.append(f"{side}, true:\n{example['label']}")
            for axis, picture, caption in zip(axes[:, column], pictures, captions, strict=False):
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
