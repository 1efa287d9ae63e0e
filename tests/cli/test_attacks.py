"""Hostile, damaged and wrong inputs of `diagnose` and `improve`, kills of both, and damaged copies of sets."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from ..helpers.attacks import ATTACKS, Attack, Inputs, Words, copied_at_writes
from ..helpers.commands import call, files_below, launch_two


IMPROVE_OPTIONS = {"--other_backgrounds": 0.25, "--max_steps": 12, "--learning_rate": 3e-3, "--train_batch_size": 4}


@pytest.fixture(scope="module", autouse=True)
def timeless(undrawn):
    """Times of trainings are the only difference between two runs of a command."""
    with patch("transformers.trainer.speed_metrics", lambda split, *_, **__: {f"{split}_runtime": 0.0}):
        yield


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("untouched")
    Inputs(root).write()
    return root


@pytest.fixture(scope="module")
def complete(untouched, tmp_path_factory) -> Callable[..., Path]:
    """Function that runs a command once and returns a folder: `r`, the inputs beside the output, `whole`, the output
    again, and `copies`, the output as a kill before each atomic write leaves it."""

    @cache
    def run(command: str, *given: str) -> Path:
        folder = tmp_path_factory.mktemp("complete")
        inputs = Inputs(folder / "r")
        shutil.copytree(untouched, inputs.root)
        with copied_at_writes(inputs.out, folder / "copies"):
            completed = call(*command_of(command, inputs, given))
        assert completed.status == 0, completed.err
        # Without a better model, few of the files would be there that are attacked.
        assert command == "diagnose" or (inputs.out / "model.safetensors").is_file()
        shutil.copytree(inputs.out, folder / "whole")
        return folder

    return run


def command_of(command: str, inputs: Inputs, given: Sequence = ()) -> list:
    """Words of a command, with other options if some are given."""
    options = {
        "--model": inputs.model,
        "--dataset": inputs.photos,
        "--masks": inputs.masks,
        "--output_dir": inputs.out,
    }
    options |= IMPROVE_OPTIONS if command == "improve" else {}
    words = [word for name, value in options.items() if name not in given for word in (name, value)]
    return [command, *words, *given]


def parameter(attack: Attack):
    marks = pytest.mark.release if attack.processes > 1 else ()
    return pytest.param(attack, id=f"{attack.command} {attack.what}", marks=marks)


@pytest.mark.parametrize("attack", [parameter(attack) for attack in ATTACKS])
def test_attack(attack: Attack, untouched, complete, request, tmp_path, datasets_cache, caplog):
    root = tmp_path / "r"
    shutil.copytree(complete(attack.command) / "r" if attack.after else untouched, root)
    inputs = Inputs(root)
    request.addfinalizer(inputs.end)
    given = attack.change(inputs)
    given = given if isinstance(given, Words) else Words()
    there, command = {*inputs.out.rglob("*")}, command_of(attack.command, inputs, given)
    completed = call(*command) if attack.processes == 1 else launch_two("-m", "robust_vit_hf.cli", *command)
    if attack.refused is not None:
        error = completed.error if attack.processes == 1 else completed.err  # in which the launcher tells what it did
        assert attack.refused.replace("{root}", str(root)) in error and completed.status
        return
    assert completed.status == 0, completed.err
    assert all(path.exists() for path in there)
    if attack.anew:
        written = made(inputs.out)
        shutil.rmtree(inputs.out)
        assert call(*command).status == 0
        assert made(inputs.out).items() <= written.items()  # the cache still has what was computed from other images
    elif attack.after:  # what was damaged is as it was
        assert made(inputs.out) == made(complete(attack.command) / "whole")
    if attack.command == "diagnose":
        assert json.loads((inputs.out / "results.json").read_text())["num_images"] == attack.images
    else:
        assert json.loads((inputs.out / "verdict.json").read_text())["verdict"] in completed.out
    assert attack.told in caplog.text + completed.out and "Warning" not in completed.err


@pytest.mark.parametrize(
    "command, given, part",
    [
        ("diagnose", (), 0.4),
        *(pytest.param("improve", (), part, marks=pytest.mark.slow) for part in (0.1, 0.8)),
        *(pytest.param("improve", (), part, marks=pytest.mark.release) for part in (0.5, 1)),
        pytest.param("improve", ("--masks", "tokencut"), 0.2, marks=pytest.mark.release),
    ],
)
def test_a_killed_command_does_the_rest(command, given, part, complete, datasets_cache):
    folder = complete(command, *given)
    inputs = Inputs(folder / "r")  # the same files, since masks that are made belong to them
    shutil.rmtree(inputs.out)
    last = len([*(folder / "copies").iterdir()]) - 1
    shutil.copytree(folder / "copies" / str(round(part * last)), inputs.out)
    completed = call(*command_of(command, inputs, given))
    assert completed.status == 0 and "Warning" not in completed.err, completed.err
    assert made(inputs.out) == made(folder / "whole")


def made(out: Path) -> dict[str, bytes]:
    """Files of an output folder, without locks, what a kill leaves of a file, and those that a training writes about itself."""
    own = ("candidates/*/*", ".*", "*.partial")
    return {
        name: content
        for name, content in files_below(out).items()
        if name.endswith("/made_from.json") or not any(Path(name).match(pattern) for pattern in own)
    }
