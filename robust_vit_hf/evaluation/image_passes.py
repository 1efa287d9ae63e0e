"""Passes over a set's images, and checks of their logits."""

from collections.abc import Callable

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import default_data_collator

from ..data.schema import undecoded


class NonFiniteLogits(ValueError):
    """Logits are NaN or infinite."""


def image_loader(dataset: datasets.Dataset, transform: Callable, batch_size: int, num_workers: int) -> DataLoader:
    """Loader of a dataset's transformed rows, in order. Raises a `ValueError` that names a row whose image or mask
    cannot be read or used."""
    return DataLoader(
        TransformedRows(dataset, transform), batch_size, num_workers=num_workers, collate_fn=default_data_collator
    )


class TransformedRows(torch.utils.data.Dataset):
    """Transformed rows of a dataset, in batches. Errors name the row that caused them."""

    def __init__(self, dataset: datasets.Dataset, transform: Callable):
        self.dataset, self.rows = dataset, dataset.with_transform(transform)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        try:
            return self.rows.__getitems__(indices)
        except Exception as error:  # codecs raise any type
            if len(indices) > 1:
                return [row for index in indices for row in self.__getitems__([index])]
            (index,) = indices
            path = (undecoded(self.dataset)[index]["image"] or {"path": "no image"})["path"]
            raise ValueError(
                f"Row {index} ({path or 'image in the table'}) cannot be used: {error}. `robust-vit data describe` lists all "
                "such rows."
            ) from error


def measure_images(
    images: torch.utils.data.Dataset,
    measure: Callable[[dict[str, torch.Tensor]], tuple[list[torch.Tensor], torch.Tensor]],
    batch_size: int,
    num_workers: int,
    accelerator: Accelerator,
    dataset: datasets.Dataset,
    description: str,
) -> np.ndarray:
    """Values of all images, in order, from those of batches, without gradients. Launched processes share the work.

    Args:
        images: rows of tensors.
        measure: takes a collated batch, and returns logits `(B, C)`, which are checked in all processes together, and values
            `(B, n)`.
        dataset: the rows, which name an image in an error.
        description: name of the pass in the progress bar and in errors.

    Returns:
        `(N, n)`, of the dtype of the values.

    Raises:
        NonFiniteLogits: as [`check_logits`].
    """
    loader = DataLoader(images, batch_size, num_workers=num_workers, collate_fn=default_data_collator)
    total, parts, done = len(images), [], 0  # type: ignore[arg-type]
    with tqdm(total=total, desc=description, unit="image", disable=not accelerator.is_main_process) as progress:
        for batch in accelerator.prepare(loader):
            with torch.no_grad(), accelerator.autocast():
                logits, values = measure(batch)
            logits, values = accelerator.gather_for_metrics((logits, values))
            for checked in logits:
                check_logits(checked, dataset, done, description)
            parts.append(values.cpu())
            done += len(values)
            progress.update(len(values))
    return torch.cat(parts).numpy()


def check_logits(logits: torch.Tensor, dataset: datasets.Dataset, first: int, description: str) -> None:
    """Refuse NaN or infinite logits `(N, C)`. Every process checks the logits of all, so that all stop together.

    Args:
        first: dataset index of the first of the N images.
        description: name of the pass in errors.

    Raises:
        NonFiniteLogits: names the image.
    """
    if bad := (~logits.isfinite()).any(dim=1).nonzero().flatten().tolist():
        index, named = first + bad[0], "file_name" in dataset.column_names
        image = f"`{dataset.with_format(None)['file_name'][index]}`" if named else f"image {index}"
        raise NonFiniteLogits(
            f"{description}: the logits of {image} are NaN or infinite. Look at the image and at the model's weights; in half "
            "precision, try float32."
        )
