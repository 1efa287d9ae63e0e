"""Passes over a set's images, and checks of their logits."""

from collections.abc import Callable, Iterator

import datasets
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.schema import undecoded


class NonFiniteLogits(ValueError):
    """Logits are NaN or infinite."""


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
                f"Row {index} ({path or 'in the table'}) cannot be used: {error}. `robust-vit data describe` lists such rows."
            ) from error


def batch_outputs(
    loader: DataLoader,
    compute: Callable[[dict[str, torch.Tensor]], tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]],
    dataset: datasets.Dataset,
    accelerator: Accelerator,
    description: str,
) -> Iterator[tuple[slice, list[torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Outputs of each batch, in order and without gradients, from all launched processes, which share the work: the
    rows of the batch, its logits in fp32, and its values. `compute` takes a collated batch, and returns logits `(B, C)` of one or
    several passes, which are checked in all processes together, and other values of B rows."""
    done = 0
    with tqdm(total=len(dataset), desc=description, unit="image", disable=not accelerator.is_main_process) as progress:
        for batch in accelerator.prepare(loader):
            with torch.no_grad(), accelerator.autocast():
                logits, values = compute(batch)
            logits, values = accelerator.gather_for_metrics(([one.float() for one in logits], values))
            for checked in logits:  # in every process, so that all stop together
                if bad := (~checked.isfinite()).any(dim=1).nonzero().flatten().tolist():
                    index, named = done + bad[0], "file_name" in dataset.column_names
                    image = f"`{dataset.with_format(None)['file_name'][index]}`" if named else f"image {index}"
                    raise NonFiniteLogits(
                        f"{description}: the logits of {image} are NaN or infinite. Look at the image and at the model's "
                        "weights; in half precision, try float32."
                    )
            rows = slice(done, done + len(logits[0]))
            yield rows, logits, values
            progress.update(rows.stop - rows.start)
            done = rows.stop
