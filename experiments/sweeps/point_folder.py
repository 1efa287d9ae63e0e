"""The folder of a point of a sweep: names of its files, and which of its measurements are complete.

Apart from [`~experiments.sweeps.sweep`], which needs submitit: results are read without it.
"""

from collections.abc import Iterable
from pathlib import Path

from robust_vit_hf.results.predictions import PREDICTIONS_FILE


# In the folder of a point: its `train` run, results on the paper's sets, predictions of the run, and the last error.
RUN, ROBUSTNESS, PREDICTIONS, ERROR_FILE = "run", "robustness", PREDICTIONS_FILE, "error.json"
# Results of the finetuned model, and of those between it and the original model, by interpolation weight.
INTERPOLATED, VALIDATION, SETS = "interpolated", "validation.parquet", "sets.parquet"
CUT_OUT = "cut_out"  # predictions of the original model for objects cut out, as parquet
CACHE, LOGS, GRID_FILE = "cache", "logs", "grid.json"  # in the folder of the sweep


def interpolated_folder(point: Path, weight: float) -> Path:
    return point / INTERPOLATED / str(float(weight)).removesuffix(".0")


def has_interpolated(point: Path, weights: Iterable[float]) -> bool:
    """Whether the models of these interpolation weights were measured on the validation images, which are measured last."""
    return all((interpolated_folder(point, weight) / VALIDATION).is_file() for weight in weights)
