"""The command line as a whole: its help, its errors, and what is imported when."""

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
        (["evaluate", "--images_per_set", "few"], "argument --images_per_set: invalid int value: 'few'"),
        (["segment", "--set", "=x"], "`=x` names no set: expected NAME or NAME=SOURCE"),
        (["data", "prepare", "imagenet-z", "--output_dir", "x"], "argument set: invalid choice: 'imagenet-z'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    completed = call(*arguments)
    assert completed.status == 2 and message in completed.error
    assert completed.err.count("\n") == 1 and "hf_secret" not in completed.err


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
    assert call("push").error == "error: No module named 'h5py': pip install 'robust-vit-hf[data]'"


def test_an_error_of_the_program_is_not_hidden(monkeypatch):
    def run(argv):
        raise RuntimeError("a bug")

    monkeypatch.setattr(push, "run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["push"])


def test_the_installed_command_and_the_module():
    for command in ([f"{sys.prefix}/bin/robust-vit"], [sys.executable, "-m", "robust_vit_hf.cli"]):
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert shown.returncode == 0 and shown.stdout == "0.1.0\n"


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
