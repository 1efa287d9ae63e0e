"""A pass over a set: its images in batches, and the check of their logits."""

from collections.abc import Callable

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import default_data_collator

from ..data.masked_dataset import undecoded


def image_loader(dataset: datasets.Dataset, transform: Callable, batch_size: int, num_workers: int) -> DataLoader:
    """Loader of the transformed rows of a dataset, in their order. It raises a `ValueError` that names the row whose image or
    mask cannot be read or used."""
    return DataLoader(_Rows(dataset, transform), batch_size, num_workers=num_workers, collate_fn=default_data_collator)


class _Rows(torch.utils.data.Dataset):
    """Transformed rows of a dataset, in batches; of a batch that fails, the row that is the reason is named."""

    def __init__(self, dataset: datasets.Dataset, transform: Callable):
        self.dataset, self.rows = dataset, dataset.with_transform(transform)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        try:
            return self.rows.__getitems__(indices)
        except Exception as error:  # codecs raise anything
            if len(indices) > 1:
                return [row for index in indices for row in self.__getitems__([index])]
            (index,) = indices
            path = (undecoded(self.dataset)[index]["image"] or {"path": "no image"})["path"]
            raise ValueError(
                f"Row {index} ({path or 'image in the table'}) cannot be used: {error}. `robust-vit data describe` lists all "
                "such rows."
            ) from error


def check_logits(logits: torch.Tensor, dataset: datasets.Dataset, first: int, description: str) -> None:
    """Refuse logits `(N, C)` that cannot be ranked. Every process checks those of all, so that all stop at once.

    Args:
        first: index in the dataset of the first of these N images.
        description: name of the pass in errors.

    Raises:
        ValueError: logits are NaN or infinite; the image is named.
    """
    if bad := (~logits.isfinite()).any(dim=1).nonzero().flatten().tolist():
        index, named = first + bad[0], "file_name" in dataset.column_names
        image = f"`{dataset.with_format(None)['file_name'][index]}`" if named else f"image {index}"
        raise ValueError(
            f"{description}: the logits of {image} are NaN or infinite. Look at the image and at the model's weights; in half "
            "precision, try float32."
        )
