"""The folder of a point of a sweep: names of its files, and which of its measurements are complete.

Apart from [`~experiments.sweeps.sweep`], which needs submitit: results are read without it.
"""

from collections.abc import Iterable
from pathlib import Path

from robust_vit_hf.evaluation.measurements.base import is_measured


# In the folder of a point: its `train` run, results on the paper's sets, predictions of the run, and the last error.
RUN, ROBUSTNESS, PREDICTIONS, ERROR_FILE = "run", "robustness", "predictions", "error.json"
SHARES, VALIDATION, SETS = "shares", "validation", "sets"  # results with a share of the finetuned weights
CUT_OUT = "cut_out"  # results of the original model on objects cut out
ORIGINALS, LOGS, GRID_FILE = "originals", "logs", "grid.json"  # in the folder of the sweep


def share_folder(point: Path, share: float) -> Path:
    return point / SHARES / str(float(share)).removesuffix(".0")


def has_shares(point: Path, shares: Iterable[float]) -> bool:
    """Whether these shares of the finetuned weights were measured on the validation images, which are measured last."""
    return all(is_measured(share_folder(point, share) / VALIDATION) for share in shares)
