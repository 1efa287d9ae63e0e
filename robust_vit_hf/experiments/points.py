"""The folder of a point of a sweep: names of its files, and whether its training is complete.

Apart from [`~robust_vit_hf.experiments.sweep`], which needs submitit: results are read without it.
"""

from pathlib import Path

from ..results.run_summary import MEAN_ROW
from ..utils.files import RESULTS_FILE, RUN_FILE, read_json
from ..utils.stage import Stage


# In the folder of a point: its identity, `train` run, results on the paper's sets, predictions, and error.
POINT_FILE, RUN, ROBUSTNESS, PREDICTIONS, ERROR_FILE = "point.json", "run", "robustness", "predictions", "error.json"
ORIGINALS, LOGS, GRID_FILE = "originals", "logs", "grid.json"  # in the folder of the sweep


def is_trained(folder: Path) -> bool:
    """Whether the `train` run of a point is complete, with results, record and predictions on each set.

    Raises:
        ValueError: a file of the run is damaged; names the file.
    """
    if not all((folder / RUN / name).is_file() for name in (RESULTS_FILE, RUN_FILE)):
        return False
    results = read_json(folder / RUN / RESULTS_FILE) or {}
    if "rows" not in results or "seconds" not in results.get("settings", {}) or not read_json(folder / RUN / RUN_FILE):
        return False
    places = [folder / PREDICTIONS / row["set"] for row in results["rows"] if row["set"] != MEAN_ROW]
    return all(has_result(place / side) for place in places for side in ("before", "after"))


def has_result(folder: Path) -> bool:
    """Whether a folder holds predictions and scores of a set."""
    return Stage.of(folder).result() is not None
