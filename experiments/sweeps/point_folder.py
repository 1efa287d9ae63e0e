"""The folder of a point of a sweep: names of its files, and which of its measurements are complete.

Apart from [`~experiments.sweeps.sweep`], which needs submitit: results are read without it.
"""

from collections.abc import Iterable
from pathlib import Path

from robust_vit_hf.evaluation.measurement import is_measured


# In the folder of a point: its `train` run, results on the paper's sets, predictions of the run, and the last error.
RUN, ROBUSTNESS, PREDICTIONS, ERROR_FILE = "run", "robustness", "predictions", "error.json"
# Results of the finetuned model, and of those between it and the original model, by interpolation weight.
INTERPOLATED, VALIDATION, SETS = "interpolated", "validation", "sets"
CUT_OUT = "cut_out"  # results of the original model on objects cut out
ORIGINALS, LOGS, GRID_FILE = "originals", "logs", "grid.json"  # in the folder of the sweep


def interpolated_folder(point: Path, weight: float) -> Path:
    return point / INTERPOLATED / str(float(weight)).removesuffix(".0")


def has_interpolated(point: Path, weights: Iterable[float]) -> bool:
    """Whether the models of these interpolation weights were measured on the validation images, which are measured last."""
    return all(is_measured(interpolated_folder(point, weight) / VALIDATION) for weight in weights)
