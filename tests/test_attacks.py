"""What was promised of hostile, damaged and wrong inputs. `python -m tests.test_attacks` writes their table into the docs."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from robust_vit_hf import load_image_set

from .helpers.attacks import ATTACKS, Attack, Inputs, Killed, Words, killed_at
from .helpers.commands import call, launch_two
from .helpers.set_attacks import SET_ATTACKS, SetAttack
from .helpers.tiny import ROOT


PAGE = ROOT / "docs" / "reliability.md"
BLOCK = re.compile(r"(<!-- attacks -->\n).*(<!-- end of attacks -->)", re.DOTALL)
IMPROVE_OPTIONS = {"--max_steps": 1, "--learning_rates": 1e-4, "--train_batch_size": 4}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("untouched")
    Inputs(root).write()
    return root


@pytest.fixture(scope="module")
def complete(untouched, tmp_path_factory) -> dict[str, Path]:
    """Inputs beside what a command made of them."""
    roots = {}
    for command in ("diagnose", "improve"):
        roots[command] = tmp_path_factory.mktemp("complete") / command
        shutil.copytree(untouched, roots[command])
        completed = call(*command_of(command, Inputs(roots[command])))
        assert completed.status == 0, completed.err
    return roots


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
            marks=pytest.mark.release
            if attack.processes > 1
            else pytest.mark.slow
            if attack.killed and attack.command == "improve"
            else (),
        )
        for attack in ATTACKS
    ],
)
def test_attack(attack: Attack, untouched, request, tmp_path, datasets_cache, caplog):
    root = tmp_path / "r"
    base = request.getfixturevalue("complete")[attack.command] if attack.after else untouched
    shutil.copytree(base, root)
    inputs = Inputs(root)
    request.addfinalizer(inputs.end)
    given = attack.change(inputs)
    given = given if isinstance(given, Words) else Words()
    there, command = {*(root / "out").rglob("*")}, command_of(attack.command, inputs, given)
    if attack.killed:
        base = request.getfixturevalue("complete")[attack.command]
        with pytest.raises(Killed), killed_at(attack.killed):
            call(*command)
    completed = call(*command) if attack.processes == 1 else launch_two("-m", "robust_vit_hf.cli", *command)
    if attack.refused is not None:
        error = completed.error if attack.processes == 1 else completed.err  # in which the launcher tells what it did
        assert attack.refused.replace("{root}", str(root)) in error and completed.status
        return
    assert completed.status == 0, completed.err
    assert all(path.exists() for path in there)
    if attack.after or attack.killed:  # what was damaged is as it was
        for path in base.glob("out/*.*"):
            assert (root / "out" / path.name).read_bytes() == path.read_bytes(), path
    if attack.command == "diagnose":
        assert json.loads((root / "out" / "results.json").read_text())["num_images"] == attack.images
    else:
        assert json.loads((root / "out" / "verdict.json").read_text())["verdict"] in completed.out
    assert attack.told in caplog.text + completed.out and "Warning" not in completed.err


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
