"""Results belong to the inputs that they are shown for: other settings, models and images are told apart or refused."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.sweeps.collect_runs import collect
from experiments.sweeps.point_folder import PREDICTIONS, RUN
from experiments.sweeps.runs import Run

from ..helpers.commands import call
from ..helpers.experiment import ONE_SEED, points, sweep, table, write_grid
from ..helpers.tiny import masked_folder, save_pretrained, tiny_vit


pytestmark = pytest.mark.usefixtures("undrawn")


def runs_of(*folders: Path) -> dict[tuple, Run]:
    """Runs of sweeps by model, method and seed."""
    return {(run.model, run.method, run.seed): run for run in collect(folders).runs}


def test_the_runs_of_an_edited_grid_are_no_further_seeds(inputs, tmp_path):
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    sweep(write_grid(grid, inputs, **ONE_SEED), out)
    sweep(write_grid(grid, inputs, options={"background_weight": 50}, **ONE_SEED), out)
    # Those of the grid as it is now keep the name of the method.
    earlier = ("model", "robustvit, background_weight default", "0")
    found = runs_of(out)
    assert {*found} == {("model", "robustvit", "0"), earlier}
    assert json.loads(found["model", "robustvit", "0"].settings)["background_weight"] == 50
    text = table(out, tmp_path / "report")
    assert "| robustvit, background_weight default | 1 |" in text and "| Ours | 1 |" in text  # one run each


def test_a_seed_of_the_same_settings_counts_once(swept, inputs, tmp_path):
    shutil.copytree(swept[1], tmp_path / "copy")
    assert len(runs_of(swept[1], tmp_path / "copy")) == 4
    (other,) = (path for path in points(tmp_path / "copy") if "bce-seed-0" in path.name)
    other.rename(other.with_name("renamed"))
    assert "are both seed `0` of model, bce" in report_error(tmp_path, swept[1], other.with_name("renamed"))


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
    assert "differ in: model" in sweep(grid, tmp_path / "out", by=call).error
    shutil.copytree(inputs / "model", own / "model", dirs_exist_ok=True)
    masked_folder(own / "data", train=20)
    assert "differ in: dataset" in sweep(grid, tmp_path / "out", by=call).error


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
    assert all(name.startswith("robustvit, dataset data, dataset data (") for name in methods)


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
