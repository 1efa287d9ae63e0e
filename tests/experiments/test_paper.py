"""docs/paper.md: everything in the paper has a command, and every command is one that the parsers take."""

import re
import shlex
from pkgutil import resolve_name

import pytest

from robust_vit_hf.cli.commands import COMMANDS
from robust_vit_hf.cli.main import find
from robust_vit_hf.cli.parser import parse
from robust_vit_hf.cli.train import parse_arguments

from ..helpers.tiny import ROOT


PAGE = (ROOT / "docs" / "paper.md").read_text()
LISTED = re.findall(r"`(robust-vit [^`]+)`", PAGE) + re.findall(r"^(robust-vit .+)$", PAGE, re.MULTILINE)


def test_everything_is_listed_in_order():
    entries = re.findall(r"^\| (Table|Figure|Appendix) (\w+) \|", PAGE, re.MULTILINE)
    expected = [("Table", str(number)) for number in range(1, 13)] + [("Figure", str(n)) for n in range(1, 16)]
    assert entries == expected + [("Appendix", letter) for letter in "ABCDEFGHIJ"]


@pytest.mark.parametrize("command", sorted(set(LISTED)))
def test_the_options_of_a_command_exist(command, in_root):
    _, name, *arguments = shlex.split(command)
    assert name in COMMANDS
    for word in arguments:
        assert not word.startswith("trainer/") or (ROOT / word).is_file()
    if name == "train":  # its options are dataclasses
        parse_arguments([*arguments, "--use_cpu"])
        return
    command, prog, rest = find([name, *arguments])
    parse(resolve_name(command.options), prog, rest)
