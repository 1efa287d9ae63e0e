"""A dataset is identified by its pixels, and results of other pixels are not taken for its own."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from robust_vit_hf.data.identity import dataset_identity
from robust_vit_hf.evaluation.protocols import EvaluationSet

from .helpers.commands import call, succeed
from .helpers.tiny import FEATURES, masked_dataset, masked_rows, save_pretrained, tiny_vit


def changed(column: str, row: int = 2) -> datasets.Dataset:
    """The rows of `masked_dataset(4)`, of which one has another value in a column."""
    rows = masked_rows(4)
    rows[row][column] = 3 if column == "label" else masked_rows(1, seed=9)[0][column]
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.mark.parametrize("column", ["image", "mask", "label"])
def test_one_other_value_is_noticed(column):
    assert dataset_identity(changed(column)) != dataset_identity(masked_dataset(4))


def test_the_same_rows_have_the_same_identity(tmp_path):
    rows = masked_dataset(4)
    known = dataset_identity(rows)
    assert dataset_identity(masked_dataset(4)) == known
    assert dataset_identity(rows.with_transform(lambda rows: rows)) == known
    # However the table is cut, selected or stored.
    halves = [rows.select(range(0, 2)), rows.select(range(2, 4))]
    assert dataset_identity(datasets.concatenate_datasets(halves)) == known
    rows.to_parquet(tmp_path / "rows.parquet")
    assert dataset_identity(datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"))) == known
    assert dataset_identity(rows.select([3, 2, 1, 0])) != known
    assert dataset_identity(rows.select(range(3))) != known


def test_files_are_identified_by_size_and_time(tmp_path):
    for name in "ab":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in "ab"]
    rows = datasets.Dataset.from_dict({"image": files}, features=datasets.Features({"image": datasets.Image()}))
    known = dataset_identity(rows)
    assert dataset_identity(rows) == known
    status = Path(files[1]).stat()
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert dataset_identity(rows) != known


def test_the_border_is_a_part_of_a_set():
    rows = masked_dataset(2)
    assert EvaluationSet.of(rows).digest != EvaluationSet.of(rows, border=2).digest


@pytest.mark.parametrize("command", ["evaluate", "segment"])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_results_of_other_pixels_are_not_reused(command, column, tmp_path):
    """Same labels, same folder, another image or mask: the cached result is refused by name."""
    options = [command, "--model", save_pretrained(tiny_vit(), tmp_path / "model"), "--split", "train"]
    options += ["--output_dir", tmp_path / "out", "--dataset"]
    masked_dataset(4).to_parquet(tmp_path / "one.parquet")
    changed(column).to_parquet(tmp_path / "two.parquet")
    succeed(*options, tmp_path / "one.parquet")
    (tmp_path / "two.parquet").replace(tmp_path / "one.parquet")
    assert (
        "holds the result of another evaluation, which differs in: rows"
        in call(*options, tmp_path / "one.parquet").error
    )


def test_results_without_a_fingerprint_are_refused(tmp_path):
    """Such as those of an earlier version, of which nobody knows what they are of."""
    options = ["evaluate", "--model", save_pretrained(tiny_vit(), tmp_path / "model"), "--protocols", "paper"]
    masked_dataset(4).to_parquet(tmp_path / "rows.parquet")
    options += ["--output_dir", tmp_path / "out", "--dataset", tmp_path / "rows.parquet", "--split", "train"]
    succeed(*options)
    (tmp_path / "out" / "paper" / "train" / "before" / "fingerprint.json").unlink()
    assert "holds results without a `fingerprint.json`" in call(*options).error
