"""`robust-vit train`: from recipes, killed, resumed, from a Hub."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers.trainer_utils import IntervalStrategy

from robust_vit_hf import make_image_processor
from robust_vit_hf.cli.train import parse_arguments
from robust_vit_hf.models.model_names import MODELS
from robust_vit_hf.training.recipes import find_recipe, list_recipes, train_values

from ..helpers.commands import call, kill_when, succeed
from ..helpers.tiny import IMAGE_SIZE, ROOT, masked_folder, named, save_pretrained, tiny_vit


@pytest.fixture
def inputs(tmp_path) -> dict:
    """Options of a run of seconds on files: a model folder, and a parquet folder with two splits."""
    save_pretrained(tiny_vit(), tmp_path / "model")
    masked_folder(tmp_path / "data", train=24)
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


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed: 1\nlearning_rat: 1", "unknown option learning_rat; did you mean learning_rate?"),
        ("hub_tokne: hf_secret", "unknown option hub_tokne; did you mean hub_token?"),
        ("seed: 1\nhub_token: hf_secret: 2", ", line 2, is not valid YAML"),
        ("", "must map names of options to values, but holds a NoneType"),
        ("method: erase", "There is no method `erase`"),
    ],
)
def test_bad_recipes(text, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    for option in ([], ["--config"]):
        error = call("train", *option, tmp_path / "recipe.yaml").error
        assert f"{tmp_path / 'recipe.yaml'}`" in error and message in error and "secret" not in error


@pytest.mark.parametrize(
    "text, message",
    [
        ("eval_strategy: no", "False is not a valid IntervalStrategy"),
        ("learning_rate: hf_secret", "argument --learning_rate: invalid float value"),
    ],
)
def test_bad_values_in_recipes(text, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n{text}")
    assert message in call("train", tmp_path / "recipe.yaml").error


@pytest.mark.parametrize(
    "option, name, value",
    [
        *((f"--control {word}", "control", True) for word in ("yes", "True", "t", "y", "1")),
        *((f"--control {word}", "control", False) for word in ("no", "false", "F", "n", "0")),
        ("--no_load_best_model_at_end", "load_best_model_at_end", False),
        ("--learning_rate=1", "learning_rate", 1.0),
        ("--run-name=vit-base=a", "run_name", "vit-base=a"),
        ("--eval_strategy no", "eval_strategy", IntervalStrategy.NO),
        ("--label_names a b", "label_names", ["a", "b"]),
        ('--lr_scheduler_kwargs {"a":1}', "lr_scheduler_kwargs", {"a": 1}),
    ],
)
def test_values_of_options(option, name, value):
    """Those of this package and of the Trainer, above the recipe of the bundled model."""
    given = {**vars(parse_arguments(option.split())[1]), **vars(parse_arguments(option.split())[2])}
    assert given[name] == value and given["relevance_weight"] == 0.08


@pytest.mark.parametrize(
    "given, recipe",
    [
        ("--model vit-b", "vit-b"),
        ("--model vit-b --method gradmask", "gradmask-vit-b"),
        ("--model vit-b --method rrr", "rrr-vit-b"),
        ("--model emoji-shift --dataset emoji-shift", "emoji-shift"),
        ("--model emoji-shift --dataset others", None),
    ],
)
def test_the_recipe_is_that_of_model_images_and_method(given, recipe, capsys):
    parse_arguments(given.split())
    assert capsys.readouterr().out == ("" if recipe is None else f"Recipe: {list_recipes()[recipe]}\n")


def test_another_method_takes_nothing_of_the_recipes_own(tmp_path):
    of_any = {"learning_rate": 1e-5, "num_train_epochs": 2, "model": "vit-b"}
    own = {"method": "swap", "background_swap": 0.5, "backgrounds": "pictures"}
    recipe = write_recipe(tmp_path, of_any | own)
    assert train_values(recipe, {"method": "finetune"}) == of_any | {"method": "finetune"}
    assert train_values(recipe, {"method": "swap"}) == train_values(recipe, {}) == of_any | own


def test_scores_and_changes_are_of_one_numbering_of_classes(inputs, tmp_path):
    """Of a model that numbers the classes of the images otherwise."""
    save_pretrained(tiny_vit(**named("dcba")), tmp_path / "model")
    succeed(
        "train", write_recipe(tmp_path, inputs | {"method": "finetune", "num_train_epochs": 8, "eval_strategy": "no"})
    )
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    change = row["top1_after"] - row["top1_before"]
    assert change and round(change * row["num_images"]) == row["corrected"] - row["broken"]
    assert row["change_low"] <= change <= row["change_high"]


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(inputs, tmp_path):
    recipe = write_recipe(tmp_path, inputs | {"num_train_epochs": 5, "save_total_limit": 2})
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    succeed("train", recipe, "--output_dir", complete)
    kill_when((killed / "checkpoint-6").is_dir, "trainer/train.py", recipe, "--output_dir", killed)
    assert not (killed / "results.json").exists()
    # Whatever the moment of the kill, a checkpoint that was not written to its end must not be resumed.
    partial = killed / "checkpoint-999"
    partial.mkdir()
    (partial / "trainer_state.json").write_text('{"epoch": 7')

    succeed("train", recipe, "--output_dir", killed, "--resume_from_checkpoint", "last")
    weights = [load_file(folder / "model.safetensors") for folder in (complete, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = [json.loads((folder / "results.json").read_text())["rows"] for folder in (complete, killed)]
    assert results[0] == results[1]


def test_code_that_comes_with_the_weights_is_run_if_it_is_asked_for(inputs, tmp_path):
    code = "from transformers import ViTForImageClassification\n\n\nclass Own(ViTForImageClassification):\n    pass\n"
    (tmp_path / "model" / "own.py").write_text(code)
    config = tmp_path / "model" / "config.json"
    named = {"auto_map": {"AutoModelForImageClassification": "own.Own"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    recipe = write_recipe(tmp_path, inputs | {"max_steps": 1, "method": "finetune"})
    for name, asked in (("ViTForImageClassification", []), ("Own", ["--trust_remote_code"])):
        succeed("train", recipe, *asked, "--output_dir", tmp_path / name)
        assert json.loads((tmp_path / name / "config.json").read_text())["architectures"] == [name]


@pytest.mark.parametrize("name", list_recipes())
def test_recipes(name):
    """Every recipe parses into the hyper-parameters that it names, and its header says how it is run and from where."""
    text = list_recipes()[name].read_text()
    values = yaml.safe_load(text)
    model, data, config = parse_arguments(["--config", name])
    assert model.model == values["model"] and model.protocol == values["protocol"]
    assert (config.method, name) in {
        ("robustvit", model.model),
        (values.get("method"), f"{config.method}-{model.model}"),
    }
    for option in ("learning_rate", "confidence_weight", "background_weight"):
        assert getattr(config, option) == float(values.get(option, getattr(config, option)))
    assert make_image_processor(values["protocol"], IMAGE_SIZE)
    assert ("robust-vit train\n" if name == "emoji-shift" else f"robust-vit train --model {model.model} ") in text
    temperatures = {"deit-b": 0.65, "deit-s": 0.55}
    assert config.confidence_temperature == temperatures.get(name, 1.0)
    assert data.control is (name == "emoji-shift")


def test_every_model_has_its_recipe():
    """A recipe is found by what the model is: its name, its ids on the Hub, its conversion. Other models have none."""
    assert {path.stem for path in (ROOT / "trainer" / "recipes").glob("*.yaml")} == set(list_recipes())  # by a link
    assert {name for name in list_recipes() if not name.startswith(("gradmask-", "rrr-"))} == set(MODELS)
    for name, entry in MODELS.items():
        for known in (name, *entry.hub_ids):
            assert find_recipe(known, None) == name
    assert find_recipe(None, None) == find_recipe("emoji-shift", None) == "emoji-shift"
    for method in ("gradmask", "rrr"):
        assert find_recipe(None, None, method) == "emoji-shift"
        found = [find_recipe(name, "photos", method) for name in ("vit-b", "vit-l", "deit-s")]
        expected = [f"{method}-vit-b", None, f"{method}-deit-s"]  # the paper could not run them on the large models
        assert found == expected
    assert find_recipe("vit-b", None, "cft") is None  # weights and rates of the paper's method are not those of others
    assert find_recipe(None, "photos") is None and find_recipe("someone/else", None) is None


@pytest.mark.parametrize("named", [[], ["--config", "emoji-shift"], ["emoji-shift"]])
def test_another_method_leaves_out_the_options_of_the_recipe(named, capsys):
    """The rest of the recipe stays; what the command line gives is still checked."""
    *_, config = parse_arguments([*named, "--method", "gradmask"])
    assert (config.background_weight, config.learning_rate) == (50.0, 1e-6)
    assert not config.background_swap  # that of the recipe is beside its method
    *_, same = parse_arguments([*named, "--method", "robustvit"])
    assert same.relevance_distance == "bce"
    with pytest.raises(SystemExit):
        parse_arguments([*named, "--method", "gradmask", "--relevance_distance", "bce"])
    assert "`relevance_distance` has no effect on the method `gradmask`" in capsys.readouterr().err


def test_a_model_of_the_paper_brings_its_recipe(hub, tmp_path):
    """Learning rate, temperature and protocol are those of the recipe."""
    tiny_vit().save_pretrained(tmp_path / "model")
    hub.add("models", MODELS["deit-s"].hub_ids[0], tmp_path / "model")
    hub.add("datasets", "user/masked", masked_folder(tmp_path / "data", 8, 4))
    options = ["--dataset", "user/masked", "--output_dir", tmp_path / "run", "--use_cpu"]
    printed = succeed("train", "--model", "deit-s", *options, "--num_train_epochs", 1, "--report_to", "none")
    assert f"Recipe: {list_recipes()['deit-s']}" in printed
    settings = json.loads((tmp_path / "run" / "results.json").read_text())["settings"]
    assert settings["training"]["learning_rate"] == 1e-6
    assert settings["training"]["confidence_temperature"] == 0.55
    assert settings["model"]["protocol"] == "paper"
    card = (tmp_path / "run" / "README.md").read_text()
    assert "license: apache-2.0\n" in card and "datasets:\n- user/masked\n" in card
    assert f"base_model: {MODELS['deit-s'].hub_ids[0]}\n" in card
