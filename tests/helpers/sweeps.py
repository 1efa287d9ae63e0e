"""Sweeps of runs of a second each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from robust_vit_hf.utils.stage import STAGE_FILE, Stage

from .commands import succeed


VARIANTS = {"robustvit": {"learning_rate": 0.01}, "bce": {"learning_rate": 0.01, "relevance_distance": "bce"}}
SEEDS = {0: {"seed": 0}, 1: {"seed": 1}}
ONE_SEED = {"seeds": {0: {"seed": 0}}, "variants": {"robustvit": {"learning_rate": 0.01}}}


def write_grid(path: Path, inputs: Path, options: dict | None = None, **keys) -> Path:
    """A grid of runs of the model and images in a folder."""
    shared = {"model": str(inputs / "model"), "dataset": str(inputs / "data"), "num_train_epochs": 1}
    shared |= {"report_to": "none", "use_cpu": True, "load_best_model_at_end": False, "disable_tqdm": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"options": shared | (options or {})} | keys))
    return path


def sweep(grid: Path, out: Path, *options, by: Callable[..., Any] = succeed) -> Any:
    """What a sweep in this process prints, or the completed command, if that is called `by` [`call`]."""
    return by("experiments", "sweep", grid, "--output_dir", out, "--cluster", "debug", *options)


def points(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{STAGE_FILE}"))


def is_trained(point: Path) -> bool:
    return Stage.of(point).result() is not None


def table(folder: Path, output: Path) -> str:
    """The report of a sweep."""
    succeed("experiments", "report", folder, "--output_dir", output)
    return (output / "report.md").read_text()
