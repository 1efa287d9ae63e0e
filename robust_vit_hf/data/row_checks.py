"""Checks of columns and rows before images are trained or measured on."""

from collections.abc import Collection
from typing import Any, Literal

import datasets
from tqdm.auto import tqdm
from transformers.utils import logging

from .mask_checks import extent_without_edges
from .schema import decode_pictures, undecoded


logger = logging.get_logger(__name__)

NUM_SHOWN = 10  # rows that an error names
REMEDY = "In an image folder, a `metadata.jsonl` gives labels and masks: a line each with `image_file_name`, `mask_file_name`, `label`."


def check_columns(dataset: Any, name: str, needs: Collection[str] = ("label", "mask")) -> None:
    """Check that a dataset or stream has `image` and the columns of `needs`, and their types. A mask that is there must be an
    image. `name` is that of the dataset in errors."""
    if dataset.features is None:
        raise ValueError(
            f"The {name} dataset is a stream without `features`: give them with `dataset.cast(datasets.Features(…))`."
        )
    if missing := [column for column in ("image", *needs) if column not in dataset.column_names]:
        raise ValueError(
            f"The {name} dataset has no column `{missing[0]}`; it has {', '.join(dataset.column_names)}. Rename one with "
            f"`dataset.rename_column`. {REMEDY}"
        )
    types = {"image": "datasets.Image()", "mask": "datasets.Image()", "label": "integers or a `datasets.ClassLabel`"}
    for column in dict.fromkeys(("image", *needs, *({"mask"} & {*dataset.column_names}))):
        feature = dataset.features[column]
        is_int = "int" in str(getattr(feature, "dtype", ""))
        if not (is_int if column == "label" else isinstance(feature, datasets.Image)):
            raise ValueError(
                f"Column `{column}` of the {name} dataset is {feature}, expected {types[column]}: see `dataset.cast_column`."
            )


def check_rows(
    dataset: datasets.Dataset, name: str, num_labels: int, bad_masks: Literal["skip", "refuse"] = "skip"
) -> datasets.Dataset:
    """Decode and check every row once, so that training does not fail on it hours later. Rows whose mask is empty or full are
    left out, or refused by `bad_masks`. Errors name the dataset, rows and files."""
    kept, problems, uninformative = [], [], []
    rows = tqdm(undecoded(dataset.with_format(None)), desc=f"checking {name} rows", unit="row", leave=False)
    for index, row in enumerate(rows):
        pictures, problem = decode_pictures(row, dataset.features)
        problem = problem or label_problem(row.get("label", 0), num_labels)
        if problem is None and not (extent := extent_without_edges(pictures["mask"])):
            kept.append(index)
        elif problem is None:
            uninformative.append(f"{name_of(row, index)}: mask is {extent}")
        else:
            problems.append(f"{name_of(row, index)}: {problem}")
    found = f"{len(uninformative)} of {len(dataset)} masks of the {name} dataset are empty or full"
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(dataset)} rows of the {name} dataset cannot be used:\n{_head(problems)}.\n"
            "Repair them, or leave them out with `dataset.filter` or `dataset.select`."
        )
    if uninformative and (bad_masks == "refuse" or not kept):
        or_skip = ", or leave these rows out with `bad_masks='skip'`" if kept else ""
        raise ValueError(f"{found}:\n{_head(uninformative)}.\nRepair them{or_skip}.")
    if not kept:
        raise ValueError(f"The {name} dataset has no rows.")
    if uninformative:
        logger.warning(f"{found}; their rows are left out:\n{_head(uninformative)}")
    return dataset.select(kept) if uninformative else dataset


def name_of(row: dict, index: int) -> str:
    """Name of an undecoded row in errors: its number and its file."""
    return f"row {index} ({(row['image'] or {}).get('path') or 'image in the table'})"


def label_problem(label: int | None, num_labels: int | None = None) -> str | None:
    """Problem of a label, or `None`. `num_labels` is `None` if unknown."""
    if label is None:
        return "label is missing"
    if isinstance(label, int) and (label < 0 or (num_labels is not None and label >= num_labels)):
        classes = f"the model's classes 0–{num_labels - 1}" if num_labels is not None else "all classes"
        return f"label {label} is outside {classes}"
    return None


def _head(lines: list[str]) -> str:
    shown = "\n".join(f"  {line}" for line in lines[:NUM_SHOWN])
    return shown + (f"\n  … and {len(lines) - NUM_SHOWN} more" if len(lines) > NUM_SHOWN else "")
