"""Pictures of relevance maps."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.utils import make_grid
from transformers import BaseImageProcessor

from .rules import RULES
from .transforms import segmentation_transform


def denormalize(pixel_values: torch.Tensor, processor: BaseImageProcessor) -> torch.Tensor:
    """Pixel values `(B, 3, H, W)` back to colours in [0, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    return (pixel_values * std + mean).clamp(0, 1)


def overlay(images: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """Relevance maps `(B, 1, H, W)` in colours over the grey images `(B, 3, H, W)`, both in [0, 1]."""
    from matplotlib import colormaps

    colours = torch.from_numpy(colormaps["inferno"](relevance[:, 0].numpy())[..., :3]).permute(0, 3, 1, 2).float()
    return 0.35 * images.mean(dim=1, keepdim=True) + 0.65 * colours


def relevance_strip(
    pixel_values: torch.Tensor,
    masks: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    processor: BaseImageProcessor,
) -> torch.Tensor:
    """Picture `(3, H', W')` in [0, 1] with a row per image: image | mask | relevance before | relevance after.

    Args:
        pixel_values: `(B, 3, H, W)`, normalised by `processor`.
        masks, before, after: `(B, 1, H, W)` in [0, 1].
    """
    images = denormalize(pixel_values, processor)
    columns = [images, masks.expand_as(images), overlay(images, before), overlay(images, after)]
    return make_grid(torch.stack(columns, dim=1).flatten(0, 1), nrow=len(columns))


def save_before_after_figure(groups: dict[str, list[dict]], path: Path) -> None:
    """Figure of test images with their relevance before and after, a column per image.

    Args:
        groups: title of a row of images, such as "corrected", to its images: each a dict with `image` `(3, H, W)` in
            [0, 1], `before` and `after` `(1, H, W)`, the names `set_name`, `label`, `predicted_before` and
            `predicted_after`. Empty groups are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = {title: examples for title, examples in groups.items() if examples}
    if not groups:
        return
    num_columns = max(len(examples) for examples in groups.values())
    figure = plt.figure(figsize=(max(1.5 * num_columns + 0.6, 4.5), 5.3 * len(groups)), layout="constrained")
    for part, (title, examples) in zip(np.atleast_1d(figure.subfigures(len(groups), 1)), groups.items(), strict=True):
        part.suptitle(title, fontweight="bold")
        axes = part.subplots(3, num_columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for column, example in enumerate(examples):
            image = example["image"]
            pictures = [image, *(overlay(image[None], example[side][None])[0] for side in ("before", "after"))]
            captions = (
                f"{example['set_name']}\n{example['label']}",
                f"before: {example['predicted_before']}",
                f"after: {example['predicted_after']}",
            )
            for axis, picture, caption in zip(axes[:, column], pictures, captions, strict=True):
                axis.imshow(picture.permute(1, 2, 0).numpy())
                axis.set_title(caption, fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def save_rules_figure(
    models: dict[str, nn.Module],
    processors: dict[str, BaseImageProcessor],
    rows: datasets.Dataset,
    rules: Sequence[str],
    path: Path,
) -> None:
    """Figure of images, a row each: image | mask | the map of each rule, for each model, of the class that it predicts.

    Args:
        models, processors: by side, such as `before` and `after`.
        rows: `image` and `mask`.
        rules: names from `RULES`.
    """
    titles, columns = ["image", "mask"], []
    for side, model in models.items():
        batch = rows.select_columns(["image", "mask"]).with_transform(segmentation_transform(processors[side]))[:]
        pixel_values, masks = torch.stack(batch["pixel_values"]), torch.stack(batch["mask"])
        images = denormalize(pixel_values, processors[side])
        columns = columns or [images, masks.expand_as(images)]
        for rule in rules:
            with torch.no_grad():
                output = RULES[rule].compute(model, pixel_values.to(next(model.parameters()).device))
            columns.append(overlay(images, output.relevance.cpu()))
            titles.append(f"{rule}\n{side}" if len(models) > 1 else rule)

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(1.2 * len(columns), 1.2 * len(rows) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    for index, row in enumerate(axes):
        for axis, pictures in zip(row, columns, strict=True):
            axis.imshow(pictures[index].permute(1, 2, 0).numpy())
            axis.axis("off")
    figure.savefig(path, dpi=75)
    plt.close(figure)


def save_contact_sheet(
    examples: list[tuple[Image.Image, Image.Image | None, str]], path: Path, num_columns: int = 4
) -> None:
    """Figure of images, each beside its mask if it has one.

    Args:
        examples: image, mask (0 is background) and caption.
        num_columns: examples in a row.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sheets = [_side_by_side(image.convert("RGB"), mask) for image, mask, _ in examples]
    num_rows = -(-len(sheets) // num_columns)
    width = 3.6 if any(mask is not None for _, mask, _ in examples) else 1.9  # inches, of a column
    height = width * max(sheet.height / sheet.width for sheet in sheets) + 0.3
    figure, axes = plt.subplots(
        num_rows, num_columns, figsize=(num_columns * width, num_rows * height), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, sheet, (*_, caption) in zip(axes.flat, sheets, examples, strict=False):
        axis.imshow(sheet)
        axis.set_title("\n".join(wrap(caption.replace("$", r"\$"), 60)[:3]), fontsize=6)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _side_by_side(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Image | mask | what the mask leaves of the image."""
    panels = [image]
    if mask is not None:
        foreground = Image.fromarray(255 * (np.asarray(mask) > 0).astype(np.uint8))  # of a palette, the indices
        panels += [foreground, Image.composite(image, Image.new("RGB", image.size, (255, 0, 255)), foreground)]
    sheet = Image.new("RGB", (len(panels) * image.width, image.height))
    for position, panel in enumerate(panels):
        sheet.paste(panel, (position * image.width, 0))
    sheet.thumbnail((720, 720))
    return sheet
