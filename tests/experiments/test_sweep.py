"""`robust-vit sweep`: what runs, what is skipped, resumed, recorded and refused."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import yaml
from PIL import Image

from experiments.sweeps import measure_mixtures
from experiments.sweeps.choose_settings import choose_settings, setting_of
from experiments.sweeps.collect_runs import _seconds, collect
from experiments.sweeps.grid import read_grid
from experiments.sweeps.point_folder import ORIGINALS, PREDICTIONS, ROBUSTNESS, RUN, is_measured
from experiments.sweeps.results_parquet import read_results
from experiments.sweeps.sweep import SweepRun, _checked_runs, _run_here, protocol_of
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.training.checkpoints import find_checkpoint
from robust_vit_hf.training.finetuning import finetune
from robust_vit_hf.training.recipes import train_arguments
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.stage import STAGE_FILE, Stage, lock_file

from ..helpers.commands import call, kill_when, launch, python, succeed, wait_until
from ..helpers.tiny import IMAGE_SIZE, ROOT, masked_dataset, masked_folder, masked_rows, save_pretrained, tiny_vit


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A model and images with masks."""
    root = tmp_path_factory.mktemp("inputs")
    save_pretrained(tiny_vit(), root / "model")
    masked_folder(root / "data", train=16)
    return root


def write_grid(path: Path, inputs: Path, options: dict | None = None, **keys) -> Path:
    """A grid of runs of a second each."""
    shared = {"model": str(inputs / "model"), "dataset": str(inputs / "data"), "num_train_epochs": 1}
    shared |= {"report_to": "none", "use_cpu": True, "load_best_model_at_end": False, "disable_tqdm": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"options": shared | (options or {})} | keys))
    return path


VARIANTS = {"robustvit": {"learning_rate": 0.01}, "bce": {"learning_rate": 0.01, "relevance_distance": "bce"}}
SEEDS = {0: {"seed": 0}, 1: {"seed": 1}}


@pytest.fixture(scope="module")
def swept(inputs, tmp_path_factory) -> tuple[Path, Path, str]:
    """Grid, output folder and output of a sweep of four runs."""
    root = tmp_path_factory.mktemp("swept")
    grid = write_grid(root / "grid.yaml", inputs, variants=VARIANTS, seeds=SEEDS)
    return grid, root / "out", succeed("sweep", grid, "--output_dir", root / "out", "--cluster", "debug")


def points(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{STAGE_FILE}"))


def is_trained(point: Path) -> bool:
    return Stage.of(point).result() is not None


def table(folder: Path, output: Path) -> str:
    """The report of a sweep."""
    succeed("report", folder, "--output_dir", output)
    return (output / "report.md").read_text()


def test_each_point_is_a_run(swept):
    _, out, printed = swept
    assert [path.name.rpartition("-")[0] for path in points(out)] == [
        f"model-{variant}-seed-{seed}" for variant in ("bce", "robustvit") for seed in (0, 1)
    ]
    assert "All 4 runs are complete." in printed
    for path in points(out):
        assert re.fullmatch(r"[0-9a-f]{16}", path.name.rpartition("-")[2])  # 32 bits collide at 77,000 runs
        training = json.loads((path / RUN / "results.json").read_text())["settings"]["training"]
        assert training["relevance_distance"] == ("bce" if "bce" in path.name else "mse")
        assert not list((path / RUN).glob("checkpoint-*"))  # which hold the optimizer
    assert len(list((out / "originals").iterdir())) == 1  # the original model is measured once
    for run in collect([out]).runs:
        assert (run.train_images, run.epochs) == (16, 1) and run.original == Stage.of(out / run.name).inputs["model"]
        assert run.commit == read_json(out / run.name / RUN / "results.json").get("commit")


def test_a_dry_run_lists_and_estimates(swept, inputs, tmp_path):
    _, out, _ = swept
    longer = write_grid(tmp_path / "grid.yaml", inputs, variants=VARIANTS, seeds=SEEDS | {2: {"seed": 2}})
    printed = succeed("sweep", longer, "--output_dir", out, "--dry_run")
    assert printed.count(": complete") == 4 and printed.count("-seed-2-") == 2 == printed.count(": to run")
    assert "2 of 6 runs are left. They take about 0 minutes" in printed
    assert len(points(out)) == 4
    printed = succeed("sweep", longer, "--output_dir", tmp_path / "new", "--dry_run")
    assert "6 of 6 runs are left. None is complete, so their time is not known." in printed
    assert not (tmp_path / "new").exists()
    shutil.copytree(out, tmp_path / "out")
    for folder in points(tmp_path / "out"):
        record = read_json(folder / STAGE_FILE)
        write_json(folder / STAGE_FILE, record | {"result": record["result"] | {"seconds": 600}})
    for jobs, minutes in ((1, 20), (2, 10)):
        printed = succeed("sweep", longer, "--output_dir", tmp_path / "out", "--dry_run", "--jobs", jobs)
        assert f"2 of 6 runs are left. They take about {minutes} minutes" in printed


def test_a_complete_sweep_is_left_as_it_is_but_for_its_rule(swept, inputs, tmp_path):
    grid, out, _ = swept
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for options in ([], ["--dry_run"]):
        assert "All 4 runs" in succeed("sweep", grid, "--output_dir", out, "--cluster", "debug", *options)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    shutil.copytree(out, tmp_path / "out")
    assert collect([tmp_path / "out"]).validation_bound == 0.02
    stricter = write_grid(tmp_path / "grid.yaml", inputs, variants=VARIANTS, seeds=SEEDS, validation_bound=0)
    assert "All 4 runs" in succeed("sweep", stricter, "--output_dir", tmp_path / "out", "--cluster", "debug")
    assert collect([tmp_path / "out"]).validation_bound == 0.0


def test_a_failed_run_is_recorded_and_tried_again(inputs, tmp_path):
    variants = {"diverges": {"learning_rate": 1e30}, "trains": {"learning_rate": 1e-3}}
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=variants)
    completed = call("sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug")
    assert completed.error == "error: 1 of 2 runs have failed, see above and their `error.json`."
    failed, trained = points(tmp_path / "out")
    error = json.loads((failed / "error.json").read_text())["error"]
    assert "NaN or infinite" in error and f"{failed.name}: failed: {error}" in completed.out
    assert is_trained(trained) and not (trained / "error.json").exists()
    assert call("sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug").status == 1  # once more


def test_a_begun_run_is_resumed(inputs, tmp_path):
    twice = {"num_train_epochs": 2, "save_total_limit": 2}
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants={"robustvit": {}}, options=twice)
    succeed("sweep", grid, "--output_dir", tmp_path / "whole", "--cluster", "debug")
    (whole,) = points(tmp_path / "whole")
    folder = tmp_path / "out" / whole.name
    write_json(folder_of(folder) / STAGE_FILE, {"inputs": read_json(whole / STAGE_FILE)["inputs"]})
    # As a run of the sweep does, but the checkpoints stay.
    (point,) = read_grid(grid).points
    finetune(*SweepRun(point, folder.parent).arguments, folder / PREDICTIONS, folder.parent / ORIGINALS)
    for name in ("results.json", "run.json", "model.safetensors"):
        (folder / RUN / name).unlink()
    shutil.rmtree(folder / RUN / "checkpoint-4")
    state = read_json(file := folder / RUN / "checkpoint-2" / "trainer_state.json")
    state["stateful_callbacks"]["TrainingTime"]["attributes"]["seconds"] = 1000.0
    write_json(file, state)
    assert "begun, to resume" in succeed("sweep", grid, "--output_dir", tmp_path / "out", "--dry_run")
    (folder / "error.json").write_text('{"error": "No space left on device"}')
    assert ": failed: No space left" in call("sweep", grid, "--output_dir", tmp_path / "out", "--dry_run").out
    succeed("sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug")
    assert not (folder / "error.json").exists()
    assert json.loads((folder / RUN / "run.json").read_text())["resumed"]
    assert read_json(folder / STAGE_FILE)["result"]["seconds"] > 1000  # of all parts
    (unbroken,), (resumed,) = (collect([tmp_path / name]).runs for name in ("whole", "out"))
    assert unbroken.seconds > 0 and resumed.seconds is None  # the log has those of the last part
    assert table(tmp_path / "out", tmp_path / "a") == table(tmp_path / "whole", tmp_path / "b")


def folder_of(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("name", ["model", "dataset", "backgrounds"])
def test_a_path_with_a_slash_at_its_end_is_the_same_run(name, inputs, tmp_path):
    paths = (str(inputs / "data"), f"{inputs / 'data'}/")
    grids = [read_grid(write_grid(tmp_path / "grid.yaml", inputs, variants={"a": {name: path}})) for path in paths]
    assert grids[0].points[0].name == grids[1].points[0].name


def test_learning_rates_of_a_variant_are_crossed(inputs, tmp_path):
    variants = {"a": {"learning_rate": ["1e-3", 1e-4], "seed": 3}, "b": {"learning_rate": 1e-2}}
    grid = write_grid(
        tmp_path / "grid.yaml", inputs, variants=variants, grid={"samples_per_class": [1, 2], "learning_rate": [1]}
    )
    chosen = [(point.variant, point.options["learning_rate"], point.crossed) for point in read_grid(grid).points]
    one, two = {"samples_per_class": 1}, {"samples_per_class": 2}
    assert chosen == [
        ("a", 1e-3, one), ("a", 1e-3, two), ("a", 1e-4, one), ("a", 1e-4, two), ("b", 1e-2, one), ("b", 1e-2, two)
    ]  # fmt: skip


def test_a_long_name_of_a_run_is_cut_off(inputs, tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants={400 * "a": {}, f"{400 * 'a'}b": {"seed": 1}})
    first, second = (point.name for point in read_grid(grid).points)
    assert len(first) == len(second) == 90 + 1 + 16 and first != second  # for the names of files end at 255 bytes


def test_weights_of_a_variant_are_chosen_where_the_rule_says_so(inputs, tmp_path):
    variants = {"a": {"relevance_weight": [0.1, 1], "learning_rate": [1e-3, 1e-4]}, "b": {"dataset": "images/{seed}"}}
    seeds = {"x": {"seed": 1, "model": "first"}, "y": {"seed": 2, "model": "second"}}
    keys = {"variants": variants, "seeds": seeds, "choose_by": "mixed_rand", "mixtures": [0.5]}
    grid = read_grid(write_grid(tmp_path / "grid.yaml", inputs, **keys))
    assert (grid.choose_by, grid.shares) == ("mixed_rand", [1.0, 0.5])
    assert [point.tuned for point in grid.points if point.variant == "a" and point.seed == "x"] == [
        {"relevance_weight": weight} for weight in (0.1, 1, 0.1, 1)
    ]
    for point in grid.points:  # the seeds' models are one, and so are their images
        assert point.crossed == {} and point.model == str(inputs / "model")
        assert point.options["model"] == {"x": "first", "y": "second"}[point.seed]
        if point.variant == "b":
            assert point.options["dataset"] == f"images/{point.seed}" and "dataset" in point.seeded
    grid = read_grid(write_grid(tmp_path / "compared.yaml", inputs, variants={"a": {"relevance_weight": [0.1, 1]}}))
    assert [(point.tuned, point.crossed) for point in grid.points] == [
        ({}, {"relevance_weight": weight}) for weight in (0.1, 1)
    ]


@pytest.mark.slow
def test_settings_are_chosen_on_validation_images_and_mixtures_measured(inputs, tmp_path):
    """The whole way: two weights, two seeds with a model each, a mixture, and the rule on the validation images."""
    save_pretrained(tiny_vit(seed=1), tmp_path / "other")
    variants = {"robustvit": {"relevance_weight": [0.5, 2.0], "learning_rate": [0.001, 0.01]}}
    seeds = {0: {"seed": 0, "model": str(inputs / "model")}, 1: {"seed": 1, "model": str(tmp_path / "other")}}
    keys = {"variants": variants, "seeds": seeds, "choose_by": "mixed_rand", "mixtures": [0.5]}
    grid, out = write_grid(tmp_path / "grid.yaml", inputs, **keys), tmp_path / "out"
    assert "All 8 runs are complete." in succeed("sweep", grid, "--output_dir", out, "--cluster", "debug")
    results = collect([out])
    assert {run.model for run in results.runs} == {"model"} and {run.share for run in results.runs} == {0.5, 1.0}
    chosen, settings = choose_settings(results)
    assert len(settings.rows) == 4 and [bool(row[-1]) for row in settings.rows].count(True) == 1
    cut_out = [run for run in results.runs if run.method == "cut_out"]
    assert len(cut_out) == 2 and {run.name for run in cut_out} <= {run.name for run in chosen}
    trained = [run for run in chosen if run.method != "cut_out"]
    assert len(trained) == 2 and len({setting_of(run) for run in trained}) == 1
    for run in (run for run in results.runs if run.composed):
        with_models = [int(run.composed["original"].correct(side).sum()) for side in ("before", "after")]
        assert run.validation == pytest.approx([right / len(run.composed["original"]) for right in with_models])
    text = table(out, tmp_path / "report")
    assert "## Settings: top-1 on the validation images with the backgrounds of others" in text
    again = read_results(tmp_path / "report" / "results.parquet")
    assert [setting_of(run) for run in choose_settings(again)[0]] == [setting_of(run) for run in chosen]
    joined = table(tmp_path / "report" / "results.parquet", tmp_path / "joined")
    assert joined == text
    unfinished = next(out.glob("*robustvit*"))
    shutil.rmtree(unfinished / "shares" / "0.5")
    assert "1 of 8 runs are left" in succeed("sweep", grid, "--output_dir", out, "--dry_run")
    names = {run.name.partition(",")[0] for run in collect([out]).runs if run.method != "cut_out"}
    assert names == {point.name for point in points(out)} - {unfinished.name}
    measured = (unfinished / "shares" / "1" / "validation" / "after" / "rows.parquet").stat().st_mtime_ns
    shutil.rmtree(unfinished / "run")  # what was measured of its model goes with it
    assert "All 8 runs are complete." in succeed("sweep", grid, "--output_dir", out, "--cluster", "debug")
    assert (unfinished / "shares" / "1" / "validation" / "after" / "rows.parquet").stat().st_mtime_ns > measured


def test_another_rule_of_the_choice_for_the_same_runs(inputs, tmp_path, caplog):
    """Under the paper's rule, weights are no settings to choose from, and their runs are of methods of their own."""
    keys = {"variants": {"robustvit": {"relevance_weight": [0.5, 2.0]}}, "seeds": {0: {"seed": 0}}}
    out, tuned = tmp_path / "out", {"relevance_weight"}
    for rule, of_runs in (("learning_rate", set()), ("mixed_rand", tuned), ("learning_rate", set())):
        grid = write_grid(tmp_path / "grid.yaml", inputs, {"learning_rate": 0.01}, choose_by=rule, **keys)
        assert "All 2 runs are complete." in succeed("sweep", grid, "--output_dir", out, "--cluster", "debug")
        runs = collect([out]).runs
        assert [{*run.tuned} for run in runs] == 2 * [of_runs] and len({run.method for run in runs}) == 2 - len(
            of_runs
        )
        assert "robustvit" in table(out, tmp_path / "report")
    lost, kept = points(out)
    shutil.rmtree(lost)
    assert [run.name for run in collect([out]).runs] == [kept.name] and f"not complete: {lost.name}." in caplog.text
    (out / "grid.json").unlink()
    assert "start the sweep again, which writes it" in call("report", out, "--output_dir", tmp_path / "report").error


def test_unlabelled_images_in_a_sweep_with_mixtures(inputs, tmp_path):
    """Of the split that is measured: the objects of the others are cut out."""
    data, rows = masked_folder(tmp_path / "data", train=8), masked_dataset(6)
    labels = datasets.Dataset.from_dict(
        {"label": [0, None, 1, 2, None, 3]}, datasets.Features({"label": rows.features["label"]})
    )
    rows = datasets.concatenate_datasets([rows.remove_columns("label"), labels], axis=1)
    rows.to_parquet(data / "test-00000.parquet")
    options = {"dataset": str(data), "test_split": "test", "learning_rate": 1e-3}
    keys = {"seeds": {0: {"seed": 0}}, "choose_by": "mixed_rand", "mixtures": [0.5]}
    grid = write_grid(tmp_path / "grid.yaml", inputs, options, **keys)
    printed = succeed("sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug")
    assert "All 1 runs are complete." in printed
    runs = {(run.method, run.share): run for run in collect([tmp_path / "out"]).runs}
    cut_out = runs["cut_out", 1.0].sets["test"]
    assert len(cut_out) == 6 and cut_out.usable.sum() == 4 and not cut_out.correct("after")[[1, 4]].any()
    assert runs["cut_out", 1.0].epochs is None  # one for all lengths of a training
    (point,) = points(tmp_path / "out")
    assert len({*Stage.of(point).inputs["datasets"]}) == 3  # digests: the images that are measured count too


def test_mixtures_are_measured_on_the_first_shifted_set_alone(inputs, tmp_path, monkeypatch):
    """And on the sets without a shift, and all weights on the validation images alone."""
    rows, measured = EvaluationSet.of(masked_dataset(4)), []
    sets = {"a": rows, "b": replace(rows, shifted=True), "c": replace(rows, shifted=True)}
    monkeypatch.setattr(measure_mixtures, "load_data", lambda *_: (None, masked_dataset(4), sets))
    monkeypatch.setattr(measure_mixtures, "measure", lambda session, *_, **__: measured.append([*session.sets]))
    model, folder = str(inputs / "model"), tmp_path / "out"
    options = train_arguments(model=model, dataset=str(inputs / "data"), output_dir=model, use_cpu=True)
    measure_mixtures.measure_shares(*options, folder, tmp_path / ORIGINALS, [1.0, 0.5])
    assert measured == [["a", "b"], ["validation"], ["a", "b"], ["validation"]]


def test_seconds_are_those_of_the_training_alone():
    history = [{"loss": 1.0}, {"eval_runtime": 2.5}, {"eval_runtime": 1.5}, {"train_runtime": 10.0}]
    assert _seconds(history) == 6.0
    assert _seconds([*history, *history]) is None and _seconds(history[:3]) is None


def test_the_rate_is_chosen_by_the_checkpoint_that_was_kept(swept, tmp_path):
    point = points(shutil.copytree(swept[1], tmp_path / "out"))[0]
    state, results = (read_json(point / RUN / name) for name in ("trainer_state.json", "results.json"))
    last = next(entry for entry in reversed(state["log_history"]) if "eval_top1" in entry)
    state["log_history"].append(last | {"step": last["step"] + 1, "eval_top1": 2.0})
    for kept, expected in ((True, last["eval_top1"]), (False, 2.0)):
        results["settings"]["training"]["load_best_model_at_end"] = kept
        (point / RUN / "results.json").write_text(json.dumps(results))
        (point / RUN / "trainer_state.json").write_text(json.dumps(state | {"best_global_step": last["step"]}))
        assert collect([point]).runs[0].validation == (last["eval_original_top1"], expected)


def test_validation_images_of_another_size_and_without_background(inputs, tmp_path):
    """Both models see them at the size of the training. A mask of the whole image leaves no background to be replaced."""
    data = masked_folder(tmp_path / "data", train=8)
    rows = masked_rows(6)
    rows[2]["mask"] = Image.new("L", rows[2]["image"].size, 255)
    rows = datasets.Dataset.from_list(rows, features=masked_dataset(1).features)
    rows.to_parquet(data / "validation-00000.parquet")
    options = {"dataset": str(data), "image_size": 2 * IMAGE_SIZE, "learning_rate": 1e-3}
    grid = write_grid(tmp_path / "grid.yaml", inputs, options, seeds={0: {"seed": 0}}, choose_by="mixed_rand")
    succeed("sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug")
    (point,) = points(tmp_path / "out")
    sizes = [
        read_json(point / "shares" / "1" / "validation" / side / "stage.json")["inputs"]["processor"]["crop_size"][
            "height"
        ]
        for side in ("before", "after")
    ]
    assert sizes == [2 * IMAGE_SIZE] * 2
    (run,) = collect([tmp_path / "out"]).runs
    assert run.composed["original"].usable.tolist() == [True, True, False, True, True, True]
    assert not run.composed["mixed_rand"].usable[2]


def test_a_run_is_complete_when_both_models_are_measured_on_its_sets(swept, tmp_path):
    grid, out, _ = swept
    run = _checked_runs(read_grid(grid), shutil.copytree(out, tmp_path / "out"))[0]
    assert run.is_complete()
    run.sets = [("imagenet-a", "sets/imagenet-a")]
    folder = run.folder / ROBUSTNESS / protocol_of(run.point) / "imagenet-a"
    for side, complete in (("before", False), ("after", True)):
        assert not run.is_complete() and run.unmeasured() == run.sets
        shutil.copytree(run.folder / PREDICTIONS / "validation" / side, folder / side)
        assert is_measured(folder) == complete
    assert run.is_complete() and not run.unmeasured()


def test_a_set_of_one_model_is_left_out_and_named(swept, tmp_path, caplog):
    """As where a run left the grid before its last set was measured."""
    point = points(shutil.copytree(swept[1], tmp_path / "out"))[0]
    sets = point / ROBUSTNESS / Stage.of(point).result()["protocol"]
    for name, sides in {"imagenet-v2": ("before", "after"), "imagenet-a": ("before",)}.items():
        for side in sides:
            shutil.copytree(point / PREDICTIONS / "validation" / side, sets / name / side)
    assert "ImageNet-A" not in table(point, tmp_path / "report")
    shutil.copytree(sets / "imagenet-v2", sets / "imagenet-9-original")  # whose images have several classes
    (run,) = collect([point]).runs
    assert {name: of.by_class for name, of in run.sets.items()} == {"imagenet-v2": True, "imagenet-9-original": False}
    assert f"`{sets / 'imagenet-a'}` is left out" in caplog.text and "`after`" in caplog.text


def test_models_of_the_paper_are_measured_as_in_the_paper(inputs, tmp_path):
    """Their published figures are of its preprocessing."""
    cases = [("vit-b", "native", "paper"), ("vit-b", "model", "paper"), (str(inputs / "model"), "native", "native")]
    for model, given, protocol in cases:
        grid = write_grid(tmp_path / "grid.yaml", inputs, {"model": model, "protocol": given}, seeds={0: {}})
        assert [protocol_of(point) for point in read_grid(grid).points] == [protocol]


def test_jobs_have_a_gpu_each(inputs, tmp_path, monkeypatch):
    """No more of them at once than `--jobs`; submitit gives the first GPU to each."""
    grid = read_grid(write_grid(tmp_path / "grid.yaml", inputs, variants=VARIANTS, seeds=SEEDS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    running, counts = set(), []

    class Job:
        """Ends when it is asked for the second time."""

        def __init__(self, run: SweepRun):
            self.asked, self.gpu = 0, run.gpu
            running.add(self)
            counts.append(len(running))
            assert sorted(job.gpu for job in running) in (["3"], ["GPU-7"], ["3", "GPU-7"])

        def done(self) -> bool:
            self.asked += 1
            running.difference_update({self} if self.asked == 2 else {})
            return self.asked >= 2

        def exception(self) -> None:
            return None

    _run_here(SimpleNamespace(submit=Job), [SweepRun(point, tmp_path / "out") for point in grid.points], jobs=2)
    assert len(counts) == 4 and max(counts) == 2
    for executor, given, seen in (("debug", "0", "0"), ("local", "0", "5"), ("local", "", "")):
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        SweepRun(replace(grid.points[0], options={"dataset": "missing"}), tmp_path / "out", gpu="5")()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_names_do_not_depend_on_the_place_of_imagenet(inputs, tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", inputs, {"dataset": "imagenet/data"}, seeds={0: {}})
    shutil.copytree(inputs / "data", tmp_path / "elsewhere" / "data")
    here, there = (read_grid(grid, root).points for root in (inputs, tmp_path / "elsewhere"))
    assert [point.name for point in here] == [point.name for point in there]
    assert there[0].options["dataset"] == str(tmp_path / "elsewhere" / "data")
    out = ["--output_dir", tmp_path / "out"]
    succeed("sweep", grid, "--imagenet", inputs, *out, "--cluster", "debug")
    assert "All 1 runs are complete." in succeed(
        "sweep", grid, "--imagenet", tmp_path / "elsewhere", *out, "--dry_run"
    )


def test_options_of_a_seed_override_those_of_a_variant(inputs, tmp_path):
    variants, seeds = {"a": {"weight_decay": 0.1}}, {0: {"weight_decay": 0.2}, 1: {}}
    grid = write_grid(tmp_path / "grid.yaml", inputs, {}, variants=variants, seeds=seeds)
    assert [point.options["weight_decay"] for point in read_grid(grid).points] == [0.2, 0.1]


@pytest.mark.parametrize("options", [{"learning_rate": []}, {"push_to_hub": True}])
def test_grids_without_runs_or_with_one_repository_are_refused(tmp_path, options):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"options": options}))
    with pytest.raises(ValueError, match=next(iter(options))):
        read_grid(tmp_path / "grid.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "trainer" / "grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_grids_of_the_paper(path, tmp_path):
    """Each parses, and its options are those of `train` and of its methods; its header says how it is run."""
    for name in yaml.safe_load(path.read_text()).get("sets", []):
        (tmp_path / name).mkdir()
    for word in path.read_text().replace(",", " ").replace("}", " ").split():
        if word.startswith("imagenet/"):
            (tmp_path / word.removeprefix("imagenet/")).mkdir(exist_ok=True)
    grid = read_grid(path, tmp_path)
    numbers = {"table1": 54, "table2": 54, "table4": 10, "table8": 21, "table9": 21, "figure7": 9, "waterbirds": 99}
    numbers |= {"emoji-shift-search": 69, "emoji-shift-others-search": 8, "emoji-shift-rates": 120}
    numbers |= {"emoji-shift-others-rates": 24, "emoji-shift-others": 35, "emoji-shift": 40}
    numbers |= {"emoji-shift-steps": 15, "emoji-shift-textures": 5, "emoji-shift-lp-ft": 15, "emoji-shift-scratch": 9}
    assert len(grid.points) == numbers[path.stem]
    for point in grid.points:
        assert SweepRun(point, tmp_path).arguments[-1].learning_rate == point.options["learning_rate"]
    run_by = (
        "docs/experiment/Makefile runs it"
        if path.stem.startswith("emoji-shift")
        else f"sweep trainer/grids/{path.resolve().name} "
    )
    assert run_by in path.read_text()


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_baselines_of_the_paper(name, tmp_path):
    """On the models that the paper has them for, at the rates and weights of its Tables 6 and 7."""
    grid = yaml.safe_load((ROOT / "trainer" / "grids" / f"{name}.yaml").read_text())
    for folder in ("paper-split", "paper-split-tokencut", *grid["sets"]):
        (tmp_path / folder).mkdir()
    points = read_grid(ROOT / "trainer" / "grids" / f"{name}.yaml", tmp_path).points
    found = {
        (point.variant, point.options["model"]): tuple(
            point.options[option] for option in ("learning_rate", "background_weight", "confidence_weight")
        )
        * point.options["released_gradients"]
        for point in points
        if point.variant in ("gradmask", "rrr")
    }
    rrr = {"vit-b": (2e-6, 1e-10, 2e-6), "augreg-s": (1e-5, 1e-8, 2e-8), "augreg-b": (5e-7, 1e-8, 2e-7)}
    rrr |= {"deit-s": (1e-5, 1e-10, 2e-6), "deit-b": (5e-6, 1e-10, 2e-6)}
    rates = {"vit-b": 2e-4, "augreg-s": 5e-4, "augreg-b": 1e-5, "deit-s": 5e-3, "deit-b": 1e-3}
    expected = {("rrr", model): values for model, values in rrr.items()}
    assert found == expected | {("gradmask", model): (rate, 50, 3e-9) for model, rate in rates.items()}
    datasets = {point.variant: Path(point.options["dataset"]).name for point in points}
    assert datasets.pop("unsupervised-masks") == "paper-split-tokencut" and {*datasets.values()} == {"paper-split"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("variants: {a: {}}\nchoose_by: loss", "line 2: Expected `choose_by` to be one of learning_rate, mixed_rand"),
        ("variants: {a: {}}\nmixtures: [0.5]", "`mixtures` need `choose_by: mixed_rand`"),
        ("variant: {a: {}}", "line 1: unknown option variant; did you mean variants?"),
        ("variants: {a: {learning_rat: 1}}", "variants: a: unknown option learning_rat"),
        ("seeds: {1: {seed: 1}, 01: {seed: 2}}", "`01` is given a second time"),
        ("variants: {a: {}, b: {confidence_temperature: 1.0}}", "it has the same settings as `"),
        ("variants: {a: {}, b: {class_seed: 1}}", "it has the same settings as `"),  # which only benchmarks read
        ("variants: {a: {}}\nsets: [imagenet-a]", "needs `imagenet/imagenet-a`"),
        ("variants: {a: {}, b: {dataset: nowhere}}", "b-11111111: "),
        (
            'variants: {a: {learning_rate: [1.0e-3, 1.0e-2], logging_strategy: "no"}}',
            "learning rates are chosen on validation images, which are not measured",
        ),
        (
            'variants: {a: {learning_rate: [1.0e-3, 1.0e-2], eval_strategy: "no"}}',
            "learning rates are chosen on validation images, which are not measured",
        ),
    ],
)
def test_refused_before_the_first_run(text, message, inputs, tmp_path):
    shared = yaml.safe_load(write_grid(tmp_path / "shared.yaml", inputs).read_text())["options"]
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"{text}\n{yaml.safe_dump({'options': shared})}")
    error = call("sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug").error
    expected, _, rest = message.partition("11111111")
    assert expected in error and rest in error
    assert not (tmp_path / "out").exists()


def test_validation_images_without_masks_cannot_choose(inputs, tmp_path):
    folder = masked_folder(tmp_path / "data")
    masked_dataset(8, seed=1).remove_columns("mask").to_parquet(folder / "validation-00000.parquet")
    grid = write_grid(
        tmp_path / "grid.yaml", inputs, {"dataset": str(folder)}, seeds={0: {"seed": 0}}, choose_by="mixed_rand"
    )
    error = call("sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug").error
    assert "no column `mask`" in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Folder of an `sbatch` that copies what it is given, and of a `scontrol` that records it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {"sbatch": f'cp "$1" {folder}/given\necho Submitted batch job 12345', "srun": "exit 1"}
    commands["scontrol"] = f'echo "$@" >> {folder}/scontrol.log'
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def sbatch_lines(slurm: Path, grid: Path, out: Path, *options) -> set[str]:
    """Options of the script that Slurm is given, but for paths."""
    printed = succeed("sweep", grid, "--output_dir", out, "--cluster", "slurm", *options)
    assert printed.startswith("4 runs are submitted as 12345.\n")
    lines = (slurm / "given").read_text().splitlines()
    return {line for line in lines if line.startswith("#SBATCH") and str(out) not in line}


def test_slurm_is_given_an_array(slurm, inputs, tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=VARIANTS, seeds=SEEDS)
    given = "array=0-3%1 gpus-per-node=1 job-name=robust-vit nodes=1 open-mode=append signal=USR2@90 time=4320 wckey=submitit"
    usual = {f"#SBATCH --{one}" for one in given.split()}
    assert sbatch_lines(slurm, grid, tmp_path / "first") == usual
    options = ["--jobs", 3, "--cluster_options", "slurm_partition=gpu", "timeout_min=60", "mem_gb=8"]
    changed = {f"#SBATCH --{one}" for one in ("array=0-3%3", "partition=gpu", "time=60", "mem=8GB")}
    assert sbatch_lines(slurm, grid, tmp_path / "out", *options) - usual == changed
    script = (slurm / "given").read_text()
    assert "submitit.core._submit" in script
    jobs = sorted((tmp_path / "out" / "logs").glob("*/12345_*_submitted.pkl"))
    submitted = [pickle.loads(path.read_bytes()) for path in jobs]
    assert [job.function.point.name for job in submitted] == [p.name for p in read_grid(grid).points]
    # After a pre-emption the same run is put into the queue again.
    again = submitted[0].function.checkpoint()
    assert isinstance(again.function, SweepRun) and again.function.point == submitted[0].function.point
    again.function()
    assert is_trained(tmp_path / "out" / again.function.point.name)


@pytest.mark.release
@pytest.mark.parametrize("notice", [False, True])
def test_a_preempted_run_is_queued_again_and_resumes(notice, slurm, inputs, tmp_path):
    """The process of a Slurm job gets the signals that precede a pre-emption, with or without SIGTERM as a notice before the
    one on which submitit queues it again, and is started again as Slurm does."""
    out, options = tmp_path / "out", {"num_train_epochs": 30, "save_total_limit": 30}
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants={"robustvit": {}}, options=options)
    assert "1 runs are submitted as 12345." in succeed("sweep", grid, "--output_dir", out, "--cluster", "slurm")
    (logs,), (folder,) = (out / "logs").iterdir(), points(out)
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "12345", "SLURM_PROCID": "0", "OMP_NUM_THREADS": "1"}

    def job() -> subprocess.Popen:
        command = python("-u", "-m", "submitit.core._submit", logs)
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stderr=subprocess.PIPE, text=True)

    process = job()
    wait_until(lambda: len(list((folder / RUN).glob("checkpoint-*"))) > 1, process)  # one is complete
    if notice:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not lock_file(folder / RUN, "train").read_text(), process)  # the training has ended
    process.send_signal(signal.SIGUSR2)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 255 and not is_trained(folder), log[-3000:]
    assert (slurm / "scontrol.log").read_text() == "requeue 12345\n"
    assert not (folder / "error.json").exists() and not list(logs.glob("*_result.pkl"))
    assert "begun, to resume" in succeed("sweep", grid, "--output_dir", out, "--dry_run")
    checkpoint = find_checkpoint(str(folder / RUN), "last", True)
    done = json.loads(Path(checkpoint, "trainer_state.json").read_text())
    assert 0 < done["global_step"] < done["max_steps"]

    process = job()
    _, log = process.communicate(timeout=400)
    assert process.returncode == 0 and is_trained(folder), log[-3000:]
    assert json.loads((folder / RUN / "run.json").read_text())["resumed"]
    state = json.loads((folder / RUN / "trainer_state.json").read_text())
    assert state["log_history"][: len(done["log_history"])] == done["log_history"]  # its steps are not done again
    assert "All 1 runs are complete." in succeed("sweep", grid, "--output_dir", out, "--dry_run")


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        python("-m", "robust_vit_hf.cli", "sweep", *arguments),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.release
def test_a_killed_sweep_and_a_killed_run_give_the_same_table(swept, inputs, tmp_path):
    variants = {"robustvit": VARIANTS["robustvit"]}
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=variants, seeds=SEEDS, options={"num_train_epochs": 5})
    # All in processes of their own, since weights depend on the number of threads in their last bit.
    sweep = ["-m", "robust_vit_hf.cli", "sweep", grid, "--cluster", "debug", "--output_dir"]
    assert launch(*sweep, tmp_path / "whole").status == 0
    out = tmp_path / "out"
    command = ["-m", "robust_vit_hf.cli", "sweep", grid, "--output_dir", out]

    def begun(number: int) -> bool:
        return len([path for path in points(out) if list((path / RUN).glob("checkpoint-*"))]) >= number

    kill_when(lambda: begun(1), *command, "--cluster", "debug")
    kill_when(lambda: any(map(is_trained, points(out))), *command)
    # Now a run alone is killed, in its process: the sweep records it and goes on.
    process = start(grid, "--output_dir", out)

    def process_of_a_run() -> int | None:
        for path in (path for path in points(out) if list((path / RUN).glob("checkpoint-*"))):
            held = re.match(r"process (\d+) ", (path / ".stage.lock").read_text())  # it may be of a killed sweep
            command = Path(f"/proc/{held[1] if held else 0}/cmdline")
            if command.exists() and {"submitit.core._submit", str(out)} <= {
                *re.split("\0|/logs", command.read_text())
            }:
                return int(held[1])

    os.kill(wait_until(process_of_a_run, process), signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "failed: The process ended without a result" in printed and printed.count(": complete") == 1
    assert launch(*sweep, out).status == 0
    assert table(out, tmp_path / "a") == table(tmp_path / "whole", tmp_path / "b")


@pytest.mark.release
def test_two_sweeps_at_once_share_the_runs(inputs, tmp_path):
    """Both wait until all runs are complete, and none is run twice."""
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=VARIANTS, seeds=SEEDS, options={"num_train_epochs": 4})
    sweeps = [start(grid, "--output_dir", tmp_path / "out", "--cluster", "debug") for _ in range(2)]
    outputs = [process.communicate(timeout=400) for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], outputs[0][1][-3000:] + outputs[1][1][-3000:]
    assert all("All 4 runs are complete." in printed for printed, _ in outputs)
    assert sum(log.count("validation, after:   0%") for _, log in outputs) == 4
