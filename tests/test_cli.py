"""The command line as a whole: its help, its errors, and what is imported when."""

import re
import subprocess
import sys

import pytest

from robust_vit_hf.cli import push
from robust_vit_hf.cli.main import COMMANDS, main

from .helpers.commands import call, launch


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(command):
    completed = call(*([command] if command else []), "--help")
    assert completed.status == 0 and completed.out.startswith(f"usage: robust-vit {command or 'COMMAND'}")
    for name, text in COMMANDS.items() if command is None else ():
        assert f"  {name} " in completed.out and text in completed.out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "unknown command trian; did you mean train?"),
        (["evaluate", "--image_per_set", "3"], "unknown option --image_per_set; did you mean --images_per_set?"),
        (["push", "folder", "name", "--tokn", "hf_secret"], "unknown option --tokn."),
        (["push", "folder"], "the following arguments are required: repo_id"),
        (
            ["evaluate", "--images_per_set", "few"],
            "argument --images_per_set: expected a whole number ≥ 1, but got `few`",
        ),
        (["segment", "--set", "=x"], "`=x` names no set: expected NAME or NAME=SOURCE"),
        (["data", "prepare", "imagenet-z", "--output_dir", "x"], "argument set: invalid choice: 'imagenet-z'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    completed = call(*arguments)
    assert completed.status == 2 and message in completed.error
    assert completed.err.count("\n") == 1 and "hf_secret" not in completed.err


@pytest.mark.parametrize(
    "command",
    [
        "evaluate --images_per_set 0",
        "evaluate --batch_size -4",
        "segment --num_workers -1",
        "segment --batch_size nan",
        "sis --num_images 0",
        "sis --pixels_per_step -1",
        "sis --threshold nan",
        "interpolate a b --alpha inf --output_dir x",
        "interpolate a b --sweep --images_per_set 0 --output_dir x",
        "convert a --output_dir x --image_size 0",
        "convert a --output_dir x --num_heads -1",
        "masks tokencut --images a --output_dir x --batch_size 0",
        "masks tokencut --images a --output_dir x --min_side -1",
        "masks tokencut --images a --output_dir x --min_pixels 1.5",
        "masks tokencut --images a --output_dir x --rows_per_shard 0",
        "masks grounded --images a --output_dir x --box_threshold nan",
        "data prepare paper-split --output_dir x --samples_per_class 0",
        "data prepare paper-split --output_dir x --num_classes 0",
        "data prepare paper-split --output_dir x --class_seed -1",
    ],
)
def test_numbers_that_mean_nothing(command):
    completed = call(*command.split())
    option, value = re.search(r"(--\w+) (-?[\w.]+)(?: --output_dir x)?$", command).groups()
    assert completed.status == 2
    assert re.search(rf"argument {option}: expected a (whole )?number .*, but got `{value}`\. See", completed.error)


@pytest.mark.parametrize(
    "command",
    [
        "push x y --tokne hf_secret",
        "push x y --tokenhf_secret",
        "push x y --token=hf_secret",
        "push x y --private=hf_secret",
        "push x y z hf_secret",
        "push hf_secret",
        "hf_secret",
        "train --hub_tokne=hf_secret",
        "train --hub_tokenhf_secret",
        "train --hub-tokenSecret",
        "train --hub_token x hf_secret",
        "train --seed hf_secret",
        "train --preset hf_secret",
        "train --bf16 hf_secret",
        "evaluate --num_workers hf_secret",
        "evaluate --protocols hf_secret",
        "evaluate --sets hf_secret",
    ],
)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_no_token_is_printed(command, debug):
    completed = call(*command.split(), *debug)
    assert completed.status == 2 and completed.error.startswith("error: ")
    assert "secret" not in (completed.err + completed.out).lower()


def test_a_token_in_the_place_of_a_file(tmp_path):
    token = "hf_" + "Ab1" * 12
    assert "There is no recipe `hf_…`" in call("train", token).error
    with pytest.raises(FileNotFoundError, match="There is no recipe `hf_…`"):
        main(["train", token, "--debug"])


def test_expected_errors_are_one_line_and_debug_shows_where(tmp_path):
    arguments = ["push", str(tmp_path), "user/name"]
    completed = call(*arguments)
    assert completed.status == 1 and completed.err.startswith("error: ") and completed.err.count("\n") == 1
    with pytest.raises(ValueError, match="holds no model"):
        main([*arguments, "--debug"])


def test_a_missing_package_names_the_extra(monkeypatch):
    def run(argv):
        raise ModuleNotFoundError("No module named 'h5py'", name="h5py")

    monkeypatch.setattr(push, "run", run)
    assert call("push").error == "error: No module named 'h5py': pip install -e '.[data]'"


def test_an_error_of_the_program_is_not_hidden(monkeypatch):
    def run(argv):
        raise RuntimeError("a bug")

    monkeypatch.setattr(push, "run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["push"])


def test_the_installed_command_and_the_module():
    for command in ([f"{sys.prefix}/bin/robust-vit"], [sys.executable, "-m", "robust_vit_hf.cli"]):
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert shown.returncode == 0 and shown.stdout == "0.2.0\n"


def test_nothing_heavy_is_imported_before_it_is_needed():
    """`import robust_vit_hf` and the help of the command line wait for no library; wrong arguments do not wait for torch."""
    code = """
import sys
import robust_vit_hf
from robust_vit_hf.cli.main import main
assert main(["--help"]) == 0
heavy = {"torch", "transformers", "datasets", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert main(["train", "--learning_rat", "3"]) == main(["evaluate", "--sets", "x"]) == 2
assert "torch" not in sys.modules
assert robust_vit_hf.relevance_map.__module__ == "robust_vit_hf.relevance.relevance_map"
assert not {"peft", "evaluate", "matplotlib", "timm"} & set(sys.modules)
"""
    completed = launch("-c", code)
    assert completed.status == 0, completed.err
