"""The list of commands in experiments/README.md: everything in the paper has one, and every command is one that there
is."""

import re
import shlex
from pkgutil import resolve_name

import pytest

from experiments.__main__ import COMMANDS, main, scripts
from robust_vit_hf.cli import commands
from robust_vit_hf.cli.main import find
from robust_vit_hf.cli.parser import parse
from robust_vit_hf.cli.train import parse_arguments

from ..helpers.tiny import ROOT


PAGE = (ROOT / "experiments" / "README.md").read_text()
PROGRAM = r"(?:robust-vit|python -m experiments)"
LISTED = re.findall(rf"`({PROGRAM} [^`]+)`", PAGE) + re.findall(rf"^({PROGRAM} .+)$", PAGE, re.MULTILINE)
LISTED = sorted({command for command in LISTED if "--help" not in command})


def test_everything_of_the_paper_is_listed_in_order():
    entries = re.findall(r"^\| (Table|Figure|Appendix) (\w+) \|", PAGE, re.MULTILINE)
    expected = [("Table", str(number)) for number in range(1, 13)] + [("Figure", str(n)) for n in range(1, 16)]
    assert entries == expected + [("Appendix", letter) for letter in "ABCDEFGHIJ"]


@pytest.mark.parametrize("command", LISTED)
def test_the_options_of_a_command_exist(command, in_root):
    words = shlex.split(command)
    known, (name, *arguments) = (commands.COMMANDS, words[1:]) if words[0] == "robust-vit" else (COMMANDS, words[3:])
    for word in arguments:
        assert not word.startswith("experiments/") or (ROOT / word).is_file()
    if name == "train":  # its options are dataclasses
        parse_arguments([*arguments, "--use_cpu"])
    elif name in known:
        chosen, prog, rest = find([name, *arguments], commands.Group("", known), "")
        parse(resolve_name(chosen.options), prog, rest)
    else:
        assert name in scripts()


def test_all_scripts_are_listed_or_called_by_others():
    listed = {shlex.split(command)[3] for command in LISTED if command.startswith("python")}
    makefile = (ROOT / "experiments" / "Makefile").read_text()
    called = {*re.findall(r"\$\(EXPERIMENTS\) (\w+)", makefile)}
    assert scripts().keys() | COMMANDS.keys() == listed | called


@pytest.mark.parametrize("name", scripts())
def test_help_of_a_script(name, capsys, monkeypatch):
    """Its docstring, with a usage that begins with the command by which it is called."""
    monkeypatch.setattr("sys.argv", [])  # which is set
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    usage, _, text = capsys.readouterr().out.partition("\n\n")
    assert ended.value.code == 0 and usage.startswith(f"usage: python -m experiments {name} ")
    assert f"    python -m experiments {name}" in text
