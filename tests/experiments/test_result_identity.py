"""Results belong to the inputs that they are shown for: other settings, models and images are told apart or
refused."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.sweeps.collect_runs import collect
from experiments.sweeps.point_folder import PREDICTIONS, RUN
from experiments.sweeps.runs import Run

from ..helpers.commands import call
from ..helpers.experiment import ONE_SEED, points, sweep, write_grid
from ..helpers.tiny import masked_folder, save_pretrained, tiny_vit


pytestmark = pytest.mark.usefixtures("undrawn")


def runs_of(*folders: Path) -> dict[tuple, Run]:
    """Runs of sweeps by model, method and seed."""
    return {(run.model, run.method, run.seed): run for run in collect(folders).runs}


def test_the_runs_of_an_edited_grid_are_left_out(inputs, tmp_path, caplog):
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    sweep(write_grid(grid, inputs, **ONE_SEED), out)
    (earlier,) = points(out)
    sweep(write_grid(grid, inputs, options={"background_weight": 50}, **ONE_SEED), out)
    (found,) = runs_of(out).values()
    assert json.loads(found.settings)["background_weight"] == 50 and f"{earlier.name}." in caplog.text


def test_runs_of_other_settings_are_reported_apart(swept, inputs, tmp_path):
    shutil.copytree(swept[1], tmp_path / "copy")
    assert len(runs_of(swept[1], tmp_path / "copy")) == 4
    grid = write_grid(tmp_path / "grid.yaml", inputs, options={"background_weight": 50}, **ONE_SEED)
    sweep(grid, tmp_path / "out")
    assert "model, robustvit: the runs have different settings" in report_error(tmp_path, swept[1], tmp_path / "out")


def test_seeds_with_a_split_each_are_seeds_of_one_method(inputs, tmp_path):
    splits = {seed: {"train_split": split} for seed, split in enumerate(("train[:8]", "train[8:]"))}
    sweep(write_grid(tmp_path / "grid.yaml", inputs, seeds=splits, variants=ONE_SEED["variants"]), tmp_path / "out")
    assert {*runs_of(tmp_path / "out")} == {("model", "robustvit", seed) for seed in "01"}


def report_error(tmp_path: Path, *sources: Path) -> str:
    return call("experiments", "report", *sources, "--output_dir", tmp_path / "report").error


def test_a_complete_run_of_a_changed_model_or_dataset_is_refused(inputs, tmp_path):
    own = shutil.copytree(inputs, tmp_path / "own")
    grid = write_grid(tmp_path / "grid.yaml", own, **ONE_SEED)
    sweep(grid, tmp_path / "out")
    save_pretrained(tiny_vit(5), own / "model")
    assert "made from another model or dataset" in sweep(grid, tmp_path / "out", by=call).error
    shutil.copytree(inputs / "model", own / "model", dirs_exist_ok=True)
    masked_folder(own / "data", train=20)
    assert "made from another model or dataset" in sweep(grid, tmp_path / "out", by=call).error


@pytest.mark.slow
def test_models_and_datasets_of_one_folder_name_are_told_apart(inputs, tmp_path):
    for seed, name in enumerate("ab"):
        save_pretrained(tiny_vit(seed), tmp_path / name / "model")
        masked_folder(tmp_path / name / "data", train=8 + 4 * seed)
    crossed = {option: [str(tmp_path / name / option) for name in "ab"] for option in ("model",)}
    crossed["dataset"] = [str(tmp_path / name / "data") for name in "ab"]
    sweep(write_grid(tmp_path / "grid.yaml", inputs, grid=crossed), tmp_path / "out")
    found = runs_of(tmp_path / "out")
    models, methods = {key[0] for key in found}, {key[1] for key in found}
    assert len(found) == 4 and len(models) == len(methods) == 2
    assert all(name.startswith("model (") for name in models)
    assert all(name.startswith("robustvit, dataset data (") for name in methods)


def test_a_run_that_lost_predictions_is_not_complete(swept, tmp_path):
    grid, out = swept[0], tmp_path / "out"
    shutil.copytree(swept[1], out)
    lost = points(out)[0]
    kept = (lost / RUN / "model.safetensors").read_bytes()
    (lost / PREDICTIONS).unlink()
    assert sweep(grid, out, "--dry_run").count(": complete") == 3
    assert len(runs_of(out)) == 3
    assert "All 4 runs are complete." in sweep(grid, out)
    assert len(runs_of(out)) == 4 and (lost / RUN / "model.safetensors").read_bytes() == kept
