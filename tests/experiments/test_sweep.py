"""`python -m experiments sweep`: what runs, what is skipped, resumed, recorded and refused."""

import json
import re
import shutil

import datasets
import pytest
from PIL import Image

from experiments.sweeps.choose_settings import choose_settings, setting_of
from experiments.sweeps.collect_runs import collect
from experiments.sweeps.grid import read_grid
from experiments.sweeps.point_folder import CACHE, PREDICTIONS, RECORD, RUN
from experiments.sweeps.results_parquet import read_results
from experiments.sweeps.sweep import SweepRun
from robust_vit_hf.finetuning import finetune
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.files import read_json, write_json

from ..helpers.commands import call
from ..helpers.experiment import SEEDS, SWEPT, is_trained, points, sweep, table, write_grid
from ..helpers.tiny import IMAGE_SIZE, masked_dataset, masked_folder, masked_rows, save_pretrained, tiny_vit


pytestmark = pytest.mark.usefixtures("undrawn")


def test_each_point_is_a_run(swept):
    _, out, _ = swept
    for path in points(out):
        assert re.fullmatch(r"[0-9a-f]{16}", path.name.rpartition("-")[2])  # 32 bits collide at 77,000 runs
        training = json.loads((path / RUN / "results.json").read_text())["settings"]["training"]
        assert training["relevance_distance"] == ("bce" if "bce" in path.name else "mse")
        assert not list((path / RUN).glob("checkpoint-*"))  # which hold the optimizer
    assert len([*(out / "cache").glob("accuracy-*")]) == 1 + 4  # the original model is measured once
    for run in collect([out]).runs:
        assert (run.train_images, run.epochs) == (16, 1) and run.original == read_json(out / run.name / RECORD)[
            "model"
        ]
        assert run.commit == read_json(out / run.name / RUN / "results.json").get("commit")


def test_a_dry_run_lists_and_estimates(swept, inputs, tmp_path):
    _, out, _ = swept
    longer = write_grid(tmp_path / "grid.yaml", inputs, variants=SWEPT, seeds=SEEDS | {2: {"seed": 2}})
    printed = sweep(longer, out, "--dry_run")
    assert printed.count(": complete") == 4 and printed.count("-seed-2-") == 2 == printed.count(": to run")
    assert "2 of 6 runs are left. They take about 0 minutes" in printed
    assert len(points(out)) == 4
    sweep(longer, tmp_path / "new", "--dry_run")
    assert not (tmp_path / "new").exists()
    shutil.copytree(out, tmp_path / "out")
    for folder in points(tmp_path / "out"):
        record = read_json(folder / RECORD)
        write_json(folder / RECORD, record | {"training": record["training"] | {"seconds": 600}})
    for jobs, minutes in ((1, 20), (2, 10)):
        printed = sweep(longer, tmp_path / "out", "--dry_run", "--jobs", jobs)
        assert f"2 of 6 runs are left. They take about {minutes} minutes" in printed


def test_a_failed_run_is_recorded_and_tried_again(inputs, tmp_path):
    variants = {"diverges": {"learning_rate": 1e30}, "trains": {"learning_rate": 1e-3}}
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=variants)
    completed = sweep(grid, tmp_path / "out", by=call)
    assert completed.error == "error: 1 of 2 runs have failed, see above and their `error.json`."
    failed, trained = points(tmp_path / "out")
    error = json.loads((failed / "error.json").read_text())["error"]
    assert "NaN or infinite" in error and f"{failed.name}: failed: {error}" in completed.out
    assert is_trained(trained) and not (trained / "error.json").exists()
    assert sweep(grid, tmp_path / "out", by=call).status == 1  # once more


def test_a_begun_run_is_resumed(inputs, tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", inputs, {"num_train_epochs": 2}, variants={"robustvit": {}})
    sweep(grid, tmp_path / "whole")
    (whole,) = points(tmp_path / "whole")
    folder = tmp_path / "out" / whole.name
    folder.mkdir(parents=True)
    write_json(folder / RECORD, {name: of for name, of in read_json(whole / RECORD).items() if name != "training"})
    # As a run of the sweep does, but the checkpoints stay.
    (point,) = read_grid(grid).points
    finetune(*SweepRun(point, folder.parent).arguments, folder / PREDICTIONS, Cache(folder.parent / CACHE))
    for name in ("results.json", "run.json", "model.safetensors"):
        (folder / RUN / name).unlink()
    shutil.rmtree(folder / RUN / "checkpoint-4")
    done = read_json(folder / RUN / "checkpoint-2" / "trainer_state.json")["log_history"]
    assert "begun, to resume" in sweep(grid, tmp_path / "out", "--dry_run")
    (folder / "error.json").write_text('{"error": "No space left on device"}')
    assert ": failed: No space left" in sweep(grid, tmp_path / "out", "--dry_run", by=call).out
    sweep(grid, tmp_path / "out")
    assert not (folder / "error.json").exists()
    history = read_json(folder / RUN / "trainer_state.json")["log_history"]
    assert history[: len(done)] == done and history[-1]["step"] == 4  # with the times of the first part
    (unbroken,), (resumed,) = (collect([tmp_path / name]).runs for name in ("whole", "out"))
    assert unbroken.seconds > 0 and resumed.seconds is None  # the log has those of the last part
    assert table(tmp_path / "out", tmp_path / "a") == table(tmp_path / "whole", tmp_path / "b")


@pytest.mark.slow
def test_settings_are_chosen_on_validation_images(inputs, tmp_path):
    """The whole way: two weights and two rates, two seeds with a model each, and the rule on the validation images."""
    save_pretrained(tiny_vit(seed=1), tmp_path / "other")
    variants = {"robustvit": {"relevance_weight": [0.5, 2.0], "learning_rate": [0.001, 0.01]}}
    seeds = {0: {"seed": 0, "model": str(inputs / "model")}, 1: {"seed": 1, "model": str(tmp_path / "other")}}
    keys = {"variants": variants, "seeds": seeds, "choose_by": "mixed_rand"}
    grid, out = write_grid(tmp_path / "grid.yaml", inputs, **keys), tmp_path / "out"
    assert "All 8 runs are complete." in sweep(grid, out)
    results = collect([out])
    assert {run.model for run in results.runs} == {"model"}
    chosen, settings = choose_settings(results)
    assert len(settings.rows) == 4 and [bool(row[-1]) for row in settings.rows].count(True) == 1
    assert len(chosen) == 2 and len({setting_of(run) for run in chosen}) == 1
    text = table(out, tmp_path / "report")
    assert "## Settings: top-1 on the validation images with the backgrounds of others" in text
    again = read_results(tmp_path / "report" / "results.parquet")
    assert [setting_of(run) for run in choose_settings(again)[0]] == [setting_of(run) for run in chosen]
    assert table(tmp_path / "report" / "results.parquet", tmp_path / "joined") == text
    unfinished = next(out.glob("*robustvit*"))
    rows = unfinished / "validation.parquet"
    measured = rows.stat().st_mtime_ns
    rows.unlink()
    assert "1 of 8 runs are left" in sweep(grid, out, "--dry_run") and len(collect([out]).runs) == 7
    shutil.rmtree(unfinished / "run")  # what was measured of its model goes with it
    assert "All 8 runs are complete." in sweep(grid, out) and rows.stat().st_mtime_ns > measured


def test_another_rule_of_the_choice_for_the_same_runs(inputs, tmp_path, caplog):
    """Under the paper's rule, weights are no settings to choose from, and their runs are of methods of their own."""
    keys = {"variants": {"robustvit": {"relevance_weight": [0.5, 2.0]}}, "seeds": {0: {"seed": 0}}}
    out, weight = tmp_path / "out", {"relevance_weight"}
    for rule, tuned in (("learning_rate", set()), ("mixed_rand", weight), ("learning_rate", set())):
        grid = write_grid(tmp_path / "grid.yaml", inputs, {"learning_rate": 0.01}, choose_by=rule, **keys)
        assert "All 2 runs are complete." in sweep(grid, out)
        runs = collect([out]).runs
        assert [{*run.tuned} for run in runs] == 2 * [tuned] and len({run.method for run in runs}) == 2 - len(tuned)
        assert "robustvit" in table(out, tmp_path / "report")
    lost, kept = points(out)
    shutil.rmtree(lost)
    assert [run.name for run in collect([out]).runs] == [kept.name] and f"{lost.name}." in caplog.text


def test_the_rate_is_chosen_on_the_validation_images(swept, tmp_path):
    """On which the model that was saved is measured. The images of a test split do not choose."""
    out = shutil.copytree(swept[1], tmp_path / "out")
    validations = []
    for run in collect([out]).runs:
        measured, file = run.sets["validation"], out / run.name / RUN / "results.json"
        validations.append(run.validation)
        assert run.validation == (measured.accuracy("before"), measured.accuracy("after"))
        results = read_json(file)
        results["settings"]["data"] |= {"eval_split": "other", "test_split": "validation"}
        write_json(file, results)
    assert any(before != after for before, after in validations)
    assert [run.validation for run in collect([out]).runs] == 4 * [None]


def test_validation_images_of_another_size_and_without_background(inputs, tmp_path):
    """Both models see them at the size of the training. A mask of the whole image leaves no background to be
    replaced."""
    data = masked_folder(tmp_path / "data", train=8)
    rows = masked_rows(6, seed=1)
    rows[2]["mask"] = Image.new("L", rows[2]["image"].size, 255)
    rows = datasets.Dataset.from_list(rows, features=masked_dataset(1).features)
    rows.to_parquet(data / "validation-00000.parquet")
    options = {"dataset": str(data), "image_size": 2 * IMAGE_SIZE, "learning_rate": 1e-3}
    grid = write_grid(tmp_path / "grid.yaml", inputs, options, seeds={0: {"seed": 0}}, choose_by="mixed_rand")
    sweep(grid, tmp_path / "out")
    (run,) = collect([tmp_path / "out"]).runs
    assert run.composed["original"].usable.tolist() == [True, True, False, True, True, True]
    assert not run.composed["mixed_rand"].usable[2]
