"""Results of an experiment that was never run, small and with known effects, and sweeps of runs of a second each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.sweeps.point_folder import RECORD, training_of
from experiments.sweeps.results_parquet import ResultsFile, write_results
from experiments.sweeps.runs import Run
from robust_vit_hf.results.run_results import SetResult, SideResult

from .commands import succeed


MODELS = ("ViT-B", "DeiT-B")
# Share of the images that each variant gets right after the finetuning.
VARIANTS = {"robustvit": 0.7, "gradmask": 0.5, "without-background": 0.45, "bce": 0.75}
SETS = {"imagenet-1k": False, "imagenet-a": True, "si-score-rotation": True}
MASKED = "imagenet-1k"  # the one set with masks
# Scores of the relevance maps before the finetuning, and what each variant adds to all of them, and the second seed.
MAPS = {"pixel_accuracy": 0.7, "mean_iou": 0.5, "mean_ap": 0.8}
GAINS = {"robustvit": 0.1, "gradmask": -0.1, "without-background": -0.15, "bce": 0.15}
SEED_GAIN = 0.02


def result_rows() -> list[dict]:
    """Rows of two models, four variants and two seeds on three sets of 40 images. `robustvit` has two learning rates,
    of which the higher forgets."""
    rng = np.random.default_rng(0)
    classes = np.arange(40) % 8
    before = {name: draw(rng, 0.8 if not shifted else 0.4) for name, shifted in SETS.items()}
    rows = []
    for model in MODELS:
        for variant, right in VARIANTS.items():
            for rate in (1e-6, 1e-5) if variant == "robustvit" else (1e-6,):
                for seed in ("0", "1"):
                    run = {
                        "run": f"{model}-{variant}-{rate:g}-{seed}",
                        "model": model,
                        "variant": variant,
                        "seed": seed,
                        "learning_rate": rate,
                        "epochs": 50.0,
                        "validation_before": 0.8,
                        "validation_after": 0.6 if rate == 1e-5 else 0.79,
                        "train_images": 12,
                        "training_classes": [0, 1, 2, 3],
                    }
                    for name, shifted in SETS.items():
                        after = draw(rng, right if shifted else 0.75)
                        row = {"set": name, "shifted": shifted, "classes": classes.tolist()}
                        row |= {"ranks_before": before[name], "ranks_after": after}
                        if name == MASKED:
                            gain = GAINS[variant] + SEED_GAIN * int(seed)
                            row |= {f"{score}_before": value for score, value in MAPS.items()}
                            row |= {f"{score}_after": value + gain for score, value in MAPS.items()}
                        rows.append(run | row)
    return rows


def draw(rng: np.random.Generator, right: float) -> list[int]:
    """Ranks of 40 images, 0 for a given share of them."""
    return np.where(rng.random(40) < right, 0, rng.integers(1, 6, 40)).tolist()


def runs_of(rows: list[dict]) -> list[Run]:
    """The rows, one for each run and set, as runs of the table of results."""
    runs: dict[str, Run] = {}
    for row in rows:
        if row["run"] not in runs:
            validation = (row["validation_before"], row["validation_after"])
            runs[row["run"]] = Run(
                sets={},
                training_classes=row["training_classes"] and frozenset(row["training_classes"]),
                name=row["run"],
                model=row["model"],
                method=row["variant"],
                seed=row["seed"],
                learning_rate=row["learning_rate"],
                epochs=row["epochs"],
                validation=None if None in validation else validation,
                train_images=row["train_images"],
            )
        sides = {}
        for side in ("before", "after"):
            scores = {name: row[f"{name}_{side}"] for name in MAPS if f"{name}_{side}" in row}
            sides[side] = SideResult(np.array(row[f"ranks_{side}"]), scores)
        runs[row["run"]].sets[row["set"]] = SetResult(row["set"], sides, np.array(row["classes"]), row["shifted"])
    return list(runs.values())


def write_rows(path: Path, rows: list[dict], bound: float = 0.02) -> Path:
    """Write rows as `python -m experiments report` does."""
    names = {label: f"class {label}" for label in range(8)}
    write_results(path, ResultsFile(runs_of(rows), dict.fromkeys(MODELS, names), bound))
    return path


def result(name, count=200, groups=None, weights=None, **top1):
    """A set on which each side is right on the first so many of the images."""
    sides = {side: SideResult(np.where(np.arange(count) < round(share * count), 0, 5)) for side, share in top1.items()}
    return SetResult(name, sides, np.zeros(count, dtype=int), groups=groups, group_weights=weights)


def run_of(*results, model="DeiT-B"):
    return Run({one.name: one for one in results}, model=model)


SWEPT = {"robustvit": {"learning_rate": 0.01}, "bce": {"learning_rate": 0.01, "relevance_distance": "bce"}}
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
    return sorted(path.parent for path in folder.glob(f"*/{RECORD}"))


def is_trained(point: Path) -> bool:
    return training_of(point) is not None


def table(folder: Path, output: Path) -> str:
    """The report of a sweep."""
    succeed("experiments", "report", folder, "--output_dir", output)
    return (output / "report.md").read_text()
