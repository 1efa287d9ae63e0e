"""What was promised of hostile, damaged and wrong inputs. `python -m tests.cli.test_attacks` writes their table into the docs."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from robust_vit_hf import load_image_set
from robust_vit_hf.training.publishing import TrainingTime

from ..helpers.attacks import ATTACKS, Attack, Inputs, Words, copied_at
from ..helpers.commands import call, files_below, launch_two
from ..helpers.set_attacks import SET_ATTACKS, SetAttack
from ..helpers.tiny import ROOT


PAGE = ROOT / "docs" / "reliability.md"
BLOCK = re.compile(r"(<!-- attacks -->\n).*(<!-- end of attacks -->)", re.DOTALL)
IMPROVE_OPTIONS = {"--max_steps": 12, "--learning_rates": 3e-3, "--train_batch_size": 4, "--max_loss": 100}
KILLS = [attack for attack in ATTACKS if attack.killed]


@pytest.fixture(scope="module", autouse=True)
def timeless():
    """Times of trainings are the only difference between two runs of a command."""
    with patch.object(TrainingTime, "seconds", 0.0):
        yield


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("untouched")
    Inputs(root).write()
    return root


@pytest.fixture(scope="module")
def complete(untouched, tmp_path_factory) -> Callable[..., Path]:
    """Function that runs a command once and returns a folder: `r`, the inputs beside the output, `whole`, the output
    again, and the output as each kill leaves it, by the number of the attack."""

    @cache
    def run(command: str, *given: str) -> Path:
        folder = tmp_path_factory.mktemp("complete")
        inputs = Inputs(folder / "r")
        shutil.copytree(untouched, inputs.root)
        copies = {attack: folder / str(number) for number, attack in enumerate(KILLS) if attack.command == command}
        with copied_at(inputs.root / "out", copies):
            completed = call(*command_of(command, inputs, given))
        assert completed.status == 0, completed.err
        # Without a better model, few of the files would be there that are attacked.
        assert command == "diagnose" or (inputs.root / "out" / "model.safetensors").is_file()
        shutil.copytree(inputs.root / "out", folder / "whole")
        return folder

    return run


def command_of(command: str, inputs: Inputs, given: Sequence = ()) -> list:
    """Words of a command, with other options if some are given."""
    options = {
        "--model": inputs.model,
        "--dataset": inputs.photos,
        "--masks": inputs.masks,
        "--output_dir": inputs.root / "out",
    }
    options |= IMPROVE_OPTIONS if command == "improve" else {}
    words = [word for name, value in options.items() if name not in given for word in (name, value)]
    return [command, *words, *given]


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack,
            id=f"{attack.command} {attack.what}",
            marks=pytest.mark.release if attack.processes > 1 else (),
        )
        for attack in ATTACKS
        if not attack.killed
    ],
)
def test_attack(attack: Attack, untouched, complete, request, tmp_path, datasets_cache, caplog):
    root = tmp_path / "r"
    shutil.copytree(complete(attack.command) / "r" if attack.after else untouched, root)
    inputs = Inputs(root)
    request.addfinalizer(inputs.end)
    given = attack.change(inputs)
    given = given if isinstance(given, Words) else Words()
    there, command = {*(root / "out").rglob("*")}, command_of(attack.command, inputs, given)
    completed = call(*command) if attack.processes == 1 else launch_two("-m", "robust_vit_hf.cli", *command)
    if attack.refused is not None:
        error = completed.error if attack.processes == 1 else completed.err  # in which the launcher tells what it did
        assert attack.refused.replace("{root}", str(root)) in error and completed.status
        return
    assert completed.status == 0, completed.err
    assert all(path.exists() for path in there)
    if attack.after:  # what was damaged is as it was
        assert made(root / "out") == made(complete(attack.command) / "whole")
    if attack.command == "diagnose":
        assert json.loads((root / "out" / "results.json").read_text())["num_images"] == attack.images
    else:
        assert json.loads((root / "out" / "verdict.json").read_text())["verdict"] in completed.out
    assert attack.told in caplog.text + completed.out and "Warning" not in completed.err


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack,
            id=f"{attack.command} {attack.what}",
            marks=pytest.mark.release if attack.late else pytest.mark.slow if attack.command == "improve" else (),
        )
        for attack in KILLS
    ],
)
def test_a_killed_command_does_the_rest(attack: Attack, untouched, complete, datasets_cache):
    given = attack.change(Inputs(untouched)) or ()
    folder = complete(attack.command, *given)
    inputs = Inputs(folder / "r")  # the same files, since masks that are made belong to them
    shutil.rmtree(inputs.root / "out")
    shutil.copytree(folder / str(KILLS.index(attack)), inputs.root / "out")
    completed = call(*command_of(attack.command, inputs, given))
    assert completed.status == 0 and "Warning" not in completed.err, completed.err
    assert made(inputs.root / "out") == made(folder / "whole")


def made(out: Path) -> dict[str, bytes]:
    """Files of an output folder, without locks, what a kill leaves of a file, and those that a training writes about itself."""
    own = ("candidates/*/*", ".*", "*.partial")
    return {
        name: content
        for name, content in files_below(out).items()
        if name.endswith("/candidate.json") or not any(Path(name).match(pattern) for pattern in own)
    }


@pytest.mark.parametrize("attack", SET_ATTACKS, ids=[f"{attack.set_name} {attack.what}" for attack in SET_ATTACKS])
def test_attack_on_a_set(attack: SetAttack, tmp_path, datasets_cache):
    root = attack.make(tmp_path / "set").parent if attack.set_name == "waterbirds" else attack.make(tmp_path / "set")
    given = {"source": str(root)} | (attack.change(root) or {})
    if attack.refused is None:
        assert len([row["image"] for row in load_image_set(attack.set_name, **given)]) == attack.rows
        return
    with pytest.raises((ValueError, OSError)) as refused:
        _ = [row["image"] for row in load_image_set(attack.set_name, **given)]
    assert attack.refused.replace("{root}", str(root)) in str(refused.value)


def table_of_attacks() -> str:
    rows = [(f"`{attack.command}`", attack.what, attack.promise) for attack in ATTACKS]
    rows += [(f"`{attack.set_name}`", attack.what, attack.promise) for attack in SET_ATTACKS]
    lines = ["| of | attack | promise |", "|---|---|---|", *(f"| {' | '.join(map(_cell, row))} |" for row in rows)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def with_table(page: str) -> str:
    return BLOCK.sub(lambda found: f"{found[1]}\n{table_of_attacks()}\n\n{found[2]}", page)


def test_the_table_in_the_docs_is_of_these_attacks():
    page = PAGE.read_text()
    assert BLOCK.search(page) and with_table(page) == page


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
