"""docs/paper.md: everything in the paper has a command, and every command is one that the parsers take."""

import re
import shlex
from importlib import import_module
from unittest.mock import patch

import pytest

from robust_vit_hf.cli.main import COMMANDS
from robust_vit_hf.cli.parser import Parser
from robust_vit_hf.cli.train import parse_arguments

from .helpers.tiny import ROOT


PAGE = (ROOT / "docs" / "paper.md").read_text()
LISTED = re.findall(r"`(robust-vit [^`]+)`", PAGE) + re.findall(r"^(robust-vit .+)$", PAGE, re.MULTILINE)


class ParsedError(Exception):
    """Raised where a command has parsed its arguments, before it does anything."""


def test_everything_is_listed_in_order():
    entries = re.findall(r"^\| (Table|Figure|Appendix) (\w+) \|", PAGE, re.MULTILINE)
    expected = [("Table", str(number)) for number in range(1, 13)] + [("Figure", str(n)) for n in range(1, 16)]
    assert entries == expected + [("Appendix", letter) for letter in "ABCDEFGHIJ"]


@pytest.mark.parametrize("command", sorted(set(LISTED)))
def test_the_options_of_a_command_exist(command, monkeypatch, in_root):
    _, name, *arguments = shlex.split(command)
    assert name in COMMANDS
    for word in arguments:
        assert not word.startswith("trainer/") or (ROOT / word).is_file()
    if name == "train":  # its options are dataclasses
        parse_arguments([*arguments, "--use_cpu"])
        return
    parse, prog = Parser.parse_args, f"robust-vit {name}"

    def stop(parser, *given):
        parse(parser, *given)
        if parser.prog == prog:
            raise ParsedError

    with patch.object(Parser, "parse_args", stop), pytest.raises(ParsedError):
        import_module(f"robust_vit_hf.cli.{name}").run(arguments)
