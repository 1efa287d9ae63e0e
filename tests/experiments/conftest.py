"""A complete sweep, and a file of results, which several files use."""

from pathlib import Path

import pytest

from experiments.sweeps.results_parquet import ResultsFile, read_results

from ..helpers.experiment import SEEDS, SWEPT, result_rows, sweep, write_grid, write_rows


@pytest.fixture(scope="package")
def swept(inputs, tmp_path_factory) -> tuple[Path, Path, str]:
    """Grid, output folder and output of a sweep of four runs."""
    root = tmp_path_factory.mktemp("swept")
    grid = write_grid(root / "grid.yaml", inputs, variants=SWEPT, seeds=SEEDS)
    return grid, root / "out", sweep(grid, root / "out")


@pytest.fixture
def results(tmp_path) -> ResultsFile:
    return read_results(write_rows(tmp_path / "results.parquet", result_rows()))
