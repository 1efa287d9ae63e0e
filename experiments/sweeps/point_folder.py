"""The folder of a point of a sweep: names of its files, and which of its measurements are complete.

Apart from [`~experiments.sweeps.sweep`], which needs submitit: results are read without it.
"""

from pathlib import Path

from robust_vit_hf.results.run_results import PREDICTIONS_FILE, read_predictions
from robust_vit_hf.utils.files import RESULTS_FILE, RUN_FILE, read_json


# In the folder of a point: its `train` run, results on the paper's sets, predictions of the run, and the last error.
RUN, ROBUSTNESS, PREDICTIONS, ERROR_FILE = "run", "robustness", PREDICTIONS_FILE, "error.json"
VALIDATION = "validation.parquet"  # predictions of the validation images, on which settings are chosen
RECORD = "point.json"  # digests of model and images, and when the training is complete, facts about it
CACHE, LOGS, GRID_FILE = "cache", "logs", "grid.json"  # in the folder of the sweep


def training_of(point: Path) -> dict | None:
    """Facts about the training of a point; `None` if it is not complete, or has lost files."""
    files = (point / RUN / RUN_FILE, point / RUN / RESULTS_FILE, point / PREDICTIONS)
    record = read_json(point / RECORD) or {}
    return record.get("training") if all(file.is_file() for file in files) else None


def measured_sets(point: Path, protocol: str) -> set[str]:
    """The paper's sets on which a point was measured."""
    file = point / ROBUSTNESS / protocol / PREDICTIONS_FILE
    return {*read_predictions(file)} if file.is_file() else set()
