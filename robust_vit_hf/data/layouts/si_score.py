"""SI-Score: objects pasted onto backgrounds at every size, rotation or location.

Source: https://huggingface.co/papers/2007.08558, https://github.com/google-research/si-score
"""

import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
from transformers.utils import logging

from ..schema import Source
from .folders_of_sets import ClassFolder, class_folder_rows, open_class_folders


logger = logging.get_logger(__name__)

FOLDERS = {"size": "area", "rotation": "rotation", "location": "location20_area02_min0pc"}
METADATA_FILE = "metadata.csv"
METADATA_COLUMNS = {"x": "x_coord", "y": "y_coord", "area": "area", "angle": "rotation"}

# label_str_to_imagenet_classes.py of google-research/si-score at 94cf862 (Apache-2.0): folders have English names
# chosen by the authors, not ImageNet's. The sets have 61 of them.
LABELS: dict[str, int] = json.loads(Path(__file__).with_name("si_score_classes.json").read_text(encoding="utf-8"))


def open_si_score(root: Path, factor: str) -> Source:
    """The set of one of the `FOLDERS`: class folders with English names, and `metadata.csv` beside them."""
    names = {name: (folder, f"object_{name}") for name, folder in FOLDERS.items()}
    place = next((root / name for name in names[factor] if (root / name).is_dir()), root)
    source = open_class_folders(root, LABELS, place)
    parent = source.shards[0].path.parent
    if any(parent.name in others for other, others in names.items() if other != factor):
        raise ValueError(f"`{parent}` is another set of SI-Score than that of {factor}.")
    metadata = next(filter(Path.is_file, (parent / METADATA_FILE, parent.parent / METADATA_FILE)), None)
    if metadata is None:
        logger.warning(
            f"There is no {METADATA_FILE} beside the classes in `{parent}`: {', '.join(METADATA_COLUMNS)} are not known."
        )
    rows = partial(factor_rows, metadata=metadata)
    return Source(rows, source.shards, None if metadata is None else metadata.stat().st_mtime_ns)


def factor_rows(shards: list[ClassFolder], metadata: Path | None) -> Iterator[dict]:
    """Rows with the factors of each image: centre `x` and `y` and `area`, as fractions of the image; `angle` in
    degrees, counter-clockwise. `None` for images missing in the metadata."""
    table = None if metadata is None else read_factors(metadata, metadata.stat().st_mtime_ns)
    for row in class_folder_rows(shards):
        stem = Path(row["file_name"]).stem
        known = table is not None and stem.isdecimal() and int(stem) in table.index
        factors = table.loc[int(stem)].tolist() if known else [None] * len(METADATA_COLUMNS)
        yield row | dict(zip(METADATA_COLUMNS, factors, strict=True))


@lru_cache(maxsize=1)
def read_factors(path: Path, changed: int) -> pd.DataFrame:
    """Factors of each image by its id, in the order of `METADATA_COLUMNS`. `changed`, the modification time, is a cache key."""
    columns = [*METADATA_COLUMNS.values()]
    return pd.read_csv(path, usecols=["image_id", *columns], index_col="image_id")[columns].astype("float64")
