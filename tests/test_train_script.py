"""`trainer/train.py` as users run it: launched, from recipes, killed, resumed, from and to a Hub."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from robust_vit_hf import RobustViTConfig, make_image_processor
from robust_vit_hf.models import ZOO

from .conftest import IMAGE_SIZE, masked_dataset, tiny_vit
from .hub import LoopbackHub


ROOT = Path(__file__).parents[1]
MEASURED = [f"{name}_{side}" for name in ("top1", "ece") for side in ("before", "after", "control")]
MEASURED += ["mean_iou_before", "mean_iou_after", "change_low", "change_high", "corrected", "broken"]
RECIPES = sorted((ROOT / "trainer" / "recipes").glob("*.yaml"))


def command(*arguments) -> list[str]:
    launch = "--num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --cpu".split()
    return [sys.executable, "-m", "accelerate.commands.launch", *launch, "trainer/train.py", *map(str, arguments)]


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | environment
    )


@pytest.fixture
def inputs(tmp_path) -> dict:
    """Options of a run of seconds on files: a model folder, and a parquet folder with two splits."""
    tiny_vit().save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    masked_dataset(24).to_parquet(tmp_path / "data" / "train-00000.parquet")
    masked_dataset(8, seed=1).to_parquet(tmp_path / "data" / "validation-00000.parquet")
    return {
        "model": str(tmp_path / "model"),
        "dataset": str(tmp_path / "data"),
        "output_dir": str(tmp_path / "run"),
        "learning_rate": 0.01,  # high, so that predictions change and the figure has images
        "num_train_epochs": 2,
        "report_to": "none",
        "use_cpu": True,
    }


def write_recipe(folder: Path, values) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    return recipe


def test_a_run_leaves_everything(inputs, tmp_path):
    recipe = write_recipe(tmp_path, inputs | {"control": True, "report_to": "tensorboard"})
    completed = run(recipe, "--num_train_epochs", 1)
    assert completed.returncode == 0, completed.stderr
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.safetensors", "config.json", "preprocessor_config.json", "trainer_state.json"}
    assert names >= {"results.json", "table.md", "before_after.png"}
    results = json.loads((folder / "results.json").read_text())
    assert results["settings"]["training"]["num_train_epochs"] == 1  # the command line overrides the recipe
    (row,) = results["rows"]
    assert row["set"] == "validation" and row["num_images"] == 8
    assert None not in [row[key] for key in MEASURED]
    assert (folder / "table.md").read_text().strip() in completed.stdout
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert not torch.equal(model.classifier.weight, tiny_vit().classifier.weight)
    assert list(folder.rglob("events.out.tfevents*"))


def test_a_folder_with_another_run_is_refused(inputs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"precious")
    completed = run(write_recipe(tmp_path, inputs))
    assert completed.returncode != 0
    assert "holds another run. Choose another --output_dir, delete it, or continue it" in completed.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.safetensors"]
    completed = run(write_recipe(tmp_path, inputs), "--resume_from_checkpoint", "last")
    assert completed.returncode != 0 and "holds no whole checkpoint to resume" in completed.stderr


@pytest.mark.parametrize(
    "values, message",
    [
        ({"learning_rat": 1e-3}, "Unknown option `learning_rat` in .*recipe.yaml`. Did you mean `learning_rate`?"),
        ([1, 2], "recipe.yaml` is no mapping of option names to values, but list"),
        (None, "is no mapping of option names to values, but NoneType"),
    ],
)
def test_bad_recipes(values, message, tmp_path):
    completed = run(write_recipe(tmp_path, values))
    assert completed.returncode != 0
    (line,) = [line for line in completed.stderr.splitlines() if line.startswith("ValueError")]
    assert re.search(message, line)


def test_abbreviated_options_are_refused(inputs, tmp_path):
    completed = run(write_recipe(tmp_path, inputs), "--learning_rat", 3)
    assert completed.returncode != 0 and "'--learning_rat', '3'" in completed.stderr


def test_unusable_rows_leave_nothing_behind(inputs, tmp_path):
    masked_dataset(24).remove_columns("mask").to_parquet(tmp_path / "data" / "train-00000.parquet")
    masked_dataset(8).remove_columns("mask").to_parquet(tmp_path / "data" / "validation-00000.parquet")
    completed = run(write_recipe(tmp_path, inputs))
    assert completed.returncode != 0
    assert "ValueError: The train dataset has no column `mask`; it has image, label." in completed.stderr
    assert not (tmp_path / "run").exists()


def test_killed_and_resumed_equals_uninterrupted(inputs, tmp_path):
    recipe = write_recipe(tmp_path, inputs | {"num_train_epochs": 8, "save_total_limit": 2})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    completed = run(recipe, "--output_dir", whole)
    assert completed.returncode == 0, completed.stderr

    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            command(recipe, "--output_dir", killed), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 200
        while not (killed / "checkpoint-6").is_dir():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (killed / "results.json").exists()
    # Whatever the moment of the kill, a checkpoint that was not written to its end must not be resumed.
    partial = killed / "checkpoint-999"
    partial.mkdir()
    (partial / "trainer_state.json").write_text('{"epoch": 7')

    completed = run(recipe, "--output_dir", killed, "--resume_from_checkpoint", "last")
    assert completed.returncode == 0, completed.stderr
    weights = [load_file(folder / "model.safetensors") for folder in (whole, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = [json.loads((folder / "results.json").read_text())["rows"] for folder in (whole, killed)]
    assert results[0] == results[1]


def test_two_processes(inputs, tmp_path):
    """The whole script under two processes: one writes, and the table is that of all images."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "trainer/train.py",
    ]
    completed = subprocess.run(
        [*launch, write_recipe(tmp_path, inputs | {"control": True})],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("| validation | 8 |") == 1
    assert (tmp_path / "run" / "before_after.png").is_file()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dataset": "emoji-shift"}, "This model has other classes than emoji-shift: name its images with --dataset"),
        ({"resume_from_checkpoint": "elsewhere/checkpoint-5"}, "is no whole checkpoint in the output_dir"),
        ({"model": "emoji-shift"}, "The bundled model knows the classes of emoji-shift alone: name one"),
        ({"image_size": 36}, "36×36 is not divisible by the patch size 8×8"),
    ],
)
def test_refused(options, message, inputs, tmp_path):
    completed = run(write_recipe(tmp_path, inputs | options))
    assert completed.returncode != 0 and message in completed.stderr
    assert not (tmp_path / "run").exists()


def test_from_a_hub(inputs, tmp_path):
    """Model and dataset by id, over the real protocol."""
    with LoopbackHub() as hub:
        for kind, name, folder in (("models", "user/tiny-vit", "model"), ("datasets", "user/masked", "data")):
            hub.repos[kind, name] = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        environment = hub.environment() | {"HF_HOME": str(tmp_path / "home")}
        recipe = write_recipe(tmp_path, inputs | {"model": "user/tiny-vit", "dataset": "user/masked"})
        completed = run(recipe, **environment)
        assert completed.returncode == 0, completed.stderr
        card = (tmp_path / "run" / "README.md").read_text()
        assert "base_model: user/tiny-vit\n" in card and "datasets:\n- user/masked\n" in card


def test_help():
    completed = subprocess.run(
        [sys.executable, "trainer/train.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    for option in ("--relevance_weight", "--confidence_temperature", "--samples_per_class", "--trust_remote_code"):
        assert option in completed.stdout


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes(recipe, tmp_path):
    """Every recipe parses into the hyper-parameters that it names, and its header says how it is run and from where."""
    text = recipe.read_text()
    values = yaml.safe_load(text)
    names = {"model", "dataset", "preset", "samples_per_class", "images_per_set", "control"}
    config = RobustViTConfig(
        **{"output_dir": str(tmp_path)}
        | {name: value for name, value in values.items() if name not in names}
        | {"learning_rate": float(values["learning_rate"])}
    )
    assert make_image_processor(values["preset"], IMAGE_SIZE)
    command = f"accelerate launch trainer/train.py --model {recipe.stem} "
    assert (command if recipe.stem in ZOO else "accelerate launch trainer/train.py\n") in text
    temperatures = {"deit-b": 0.65, "deit-s": 0.55}
    assert config.confidence_temperature == temperatures.get(recipe.stem, 1.0)


def test_every_model_of_the_paper_has_its_recipe():
    """`--model NAME` takes the recipe of that name, whose model it is; any other model, and options beside it, do not."""
    recipes = {recipe.stem for recipe in RECIPES}
    assert recipes == {*ZOO, "emoji_shift"}
    for name in ZOO:
        assert yaml.safe_load((ROOT / "trainer" / "recipes" / f"{name}.yaml").read_text())["model"] == name
