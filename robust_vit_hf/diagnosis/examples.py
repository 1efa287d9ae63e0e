"""The file of images in all conditions, from which the page shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from pyarrow import parquet as pq

from ..data.composition import CONDITIONS
from ..utils.files import atomic_file
from ..utils.images import to_webp
from .strip import Composed


_PICTURES = {name: datasets.Image() for name in CONDITIONS}


def save_composed(examples: Sequence[Composed], path: Path) -> None:
    """Write images in all conditions to a parquet file for `datasets`, one row each: `label`, `donor`, a picture by
    condition as WebP, and the predicted classes as `before_original`, `before_mixed_same`, …"""
    rows = []
    for example in examples:
        row: dict[str, Any] = {"label": example.label, "donor": example.donor}
        row |= {name: to_webp(picture) for name, picture in example.pictures.items()}
        for side, predicted in example.predicted.items():
            row |= {f"{side}_{name}": best for name, best in predicted.items()}
        rows.append(row)
    texts = {name: datasets.Value("string") for name in rows[0] if name not in _PICTURES}
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, datasets.Features(texts | _PICTURES).arrow_schema), partial)


def load_composed(path: Path) -> list[Composed]:
    """Read the images that [`save_composed`] wrote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    examples, decode = [], datasets.Image(mode="RGB").decode_example
    for row in pq.read_table(path).to_pylist():
        sides = [name.removesuffix("_original") for name in row if name.endswith("_original")]
        pictures = {name: decode(row[name]) for name in CONDITIONS}
        predicted = {side: {name: row[f"{side}_{name}"] for name in CONDITIONS} for side in sides}
        examples.append(Composed(row["label"], row["donor"], pictures, predicted))
    return examples
