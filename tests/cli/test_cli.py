"""The command line as a whole: its help, its errors, and what is imported when."""

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from unittest.mock import Mock

import pytest

from experiments.paper.options import FigureOptions
from robust_vit_hf.cli.commands import COMMANDS, ROOT, Group
from robust_vit_hf.cli.main import find, main
from robust_vit_hf.cli.parser import parse
from robust_vit_hf.evaluation.options import EvaluateOptions, NamedSource
from robust_vit_hf.utils.processes import TrainingInterrupted

from ..helpers.commands import call, launch
from ..helpers.tiny import masked_folder, save_pretrained, tiny_vit


TOKEN = "hf_" + "Ab1" * 12
GROUPS = {name: command for name, command in COMMANDS.items() if isinstance(command, Group)}
LEAVES = {name: command for name, command in COMMANDS.items() if name not in GROUPS}
LEAVES |= {f"{name} {each}": command for name, group in GROUPS.items() for each, command in group.commands.items()}


@pytest.mark.parametrize("command", LEAVES)
def test_help(command, monkeypatch, tmp_path):
    """On one screen, with an example at the end; all options and examples with `--help_all`. The examples have valid options."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    completed, full = call(*command.split(), "--help"), call(*command.split(), "--help-all")
    assert completed.status == full.status == 0 and completed.out.startswith(f"usage: robust-vit {command} ")
    *lines, example = completed.out.splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 80 and lines[0].endswith(" [options]")
    examples = full.out.partition("for example:\n")[2].replace("\\\n", "").splitlines()
    assert example == examples[0] and example.startswith(f"  robust-vit {command}")
    for words in (shlex.split(each, comments=True) for each in examples):
        chosen, prog, rest = find(words[words.index(command.split()[0]) :], ROOT, "robust-vit")
        assert chosen == LEAVES[command] and callable(resolve_name(chosen.function))
        options = resolve_name(chosen.options)
        assert parse(options, prog, rest) if isinstance(options, type) else options([*rest, "--use_cpu"])
    if command == "evaluate":
        assert "split of --dataset (default: validation)" in " ".join(completed.out.split())
        assert "--images_per_set" in full.out and "--images_per_set" not in completed.out


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_help_lists_the_commands(group):
    completed = call(*group.split(), "--help")
    assert completed.status == 0 and completed.out.startswith(f"usage: robust-vit {group} COMMAND".replace("  ", " "))
    assert max(map(len, completed.out.splitlines())) <= 100
    for name, command in (GROUPS[group].commands if group else COMMANDS).items():
        assert f"  {name} " in completed.out and command.summary in completed.out


@pytest.mark.parametrize(
    "command",
    [
        "push x y --tokenTOKEN",
        "push x y --private=TOKEN",
        "TOKEN",
        "train --hub_tokne=TOKEN",
        "train --seed TOKEN",
        "evaluate --sets TOKEN",
    ],
)
def test_no_token_is_printed(command):
    for debug in ([], ["--traceback"]):
        completed = call(*command.replace("TOKEN", TOKEN).split(), *debug)
        assert completed.status == 2 and completed.error.startswith("error: ")
        assert TOKEN not in completed.err + completed.out


def test_expected_errors_are_one_line_and_debug_shows_where(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        arguments = ["push", str(folder), "user/name"]
        completed = call(*arguments)
        assert completed.status == 1 and completed.err.startswith("error: ") and completed.err.count("\n") == 1
    with pytest.raises(ValueError, match="is not a folder that can be pushed"):
        main([*arguments, "--traceback"])


def test_a_terminal_that_is_not_utf8(monkeypatch):
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", printed)
    monkeypatch.setattr("robust_vit_hf.evaluation.evaluate.evaluate", lambda _: "3 − 2 → 1")
    assert main(["evaluate", "--output_dir", "runs/none"]) == 0
    assert printed.buffer.getvalue() == b"3 ? 2 ? 1\n"


def test_a_missing_package_names_the_extra(monkeypatch):
    missing = [ModuleNotFoundError("No module", name=name) for name in ("h5py", "timm.layers", "rembg")]
    monkeypatch.setattr("robust_vit_hf.hub.upload.push", Mock(side_effect=missing))
    for extra in ("data", "train", "masks"):
        assert call("push", "a", "b").error == f"error: No module: pip install -e '.[{extra}]'"
    monkeypatch.setitem(sys.modules, "robust_vit_hf.hub.upload", None)  # which cannot be imported
    assert call("push", "a", "b").error.startswith("error: import of robust_vit_hf.hub.upload halted")


def test_errors_of_the_program_and_of_signals(monkeypatch):
    def push(options):
        raise error

    monkeypatch.setattr("robust_vit_hf.hub.upload.push", push)
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        main(["push", "a", "b"])
    error = FileExistsError(17, "File exists", "a/b")
    assert call("push", "a", "b").err == "error: `a/b`: File exists.\n"
    error = TrainingInterrupted(3)
    completed = call("push", "a", "b")
    assert completed.status == 143 and completed.err.startswith(
        "error: SIGTERM has stopped the training after step 3. Resume"
    )
    worker = (
        'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "a.py"'
    )
    error = ValueError(f"{worker}\nValueError: Two rows:\n  1\n  2")
    assert call("push", "a", "b").err == "error: Two rows: 1; 2\n"


def test_options_in_python():
    """They are those of the command line, with the same defaults and checks."""
    options = EvaluateOptions(output_dir="out", compare="after", protocols=("paper",))
    assert options.output_dir == Path("out") and options.named_sets == [NamedSource("emoji-shift")]
    assert EvaluateOptions(dataset="photos").named_sets == []
    assert EvaluateOptions(dataset=Path("photos")).dataset == "photos"
    with pytest.raises(ValueError, match="Expected `batch_size` to be a number ≥ 1"):
        EvaluateOptions(batch_size="8")
    with pytest.raises(TypeError, match="compare"):
        FigureOptions(evaluation="runs", output_dir="out")


def test_the_installed_command_and_the_module():
    for command in ([f"{sys.prefix}/bin/robust-vit"], [sys.executable, "-m", "robust_vit_hf.cli"]):
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert shown.returncode == 0 and shown.stdout == "0.3.0\n"


def test_another_program_has_its_own_commands(capsys):
    """As `python -m experiments` has. The version is that of the package."""
    root = Group("Push models", {"push": COMMANDS["push"]})
    for word, expected in (
        ("--version", "the following arguments are required: COMMAND"),
        ("psh", "unknown command psh; did you mean push?"),
    ):
        assert main([word], root, "python -m other") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {expected}") and error.endswith(" See `python -m other --help`.\n")
    assert main(["push", "--help"], root, "python -m other") == 0
    assert capsys.readouterr().out.startswith("usage: python -m other push")


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_it_is_needed_and_libraries_are_silent(tmp_path):
    """The help of the command line and wrong arguments wait for the parser of transformers, and not for torch. A command shows its own progress alone."""
    save_pretrained(tiny_vit(), tmp_path / "model")
    masked_folder(tmp_path / "data", 8, 4)
    options = ("--model", tmp_path / "model", "--dataset", tmp_path / "data")
    train = ("--num_train_epochs", 1, "--report_to", "none", "--use_cpu", "--output_dir", tmp_path / "run")
    commands = [
        ("diagnose", *options, "--split", "train", "--output_dir", tmp_path / "out"),
        ("train", *options, *train),
        ("masks", "tokencut", *options[:2], "--images", tmp_path / "data", "--output_dir", tmp_path / "masks"),
    ]
    code = """
import json, sys
import robust_vit_hf
from robust_vit_hf.cli.main import main
for command in ([], ["evaluate"], ["segment"], ["masks", "coco"], ["data", "prepare"], ["app"], ["convert"]):
    assert main([*command, "--help"]) == 0
assert main(["evaluate", "--sets", "x"]) == main(["improve", "--other_backgrounds", "-1"]) == 2
heavy = {"torch", "datasets"} & set(sys.modules)
assert not heavy, heavy
assert robust_vit_hf.relevance_map.__module__ == "robust_vit_hf.relevance.relevance_map"
assert not {"peft", "evaluate", "matplotlib", "timm"} & set(sys.modules)
assert robust_vit_hf.RobustViTTrainer and "matplotlib" not in sys.modules
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""
    completed = launch("-c", code, json.dumps([list(map(str, command)) for command in commands]))
    assert completed.status == 0, completed.err
    for words in ("Map", "Flattening", "Creating", "Generating", "Loading weights", "Warning"):
        assert words not in completed.err, completed.err
