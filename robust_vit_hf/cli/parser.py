"""Argument parser for dataclasses of options, with one-line errors."""

import argparse
import inspect
import re
from collections.abc import Iterable
from dataclasses import MISSING
from types import NoneType
from typing import Any, NoReturn

from ..utils.options import Declared, Options, declared_options, unknown
from ..utils.privacy import hide_tokens


def parse(options: type[Options], prog: str, argv: list[str]) -> Options:
    """Parse arguments, or exit after printing the help, or with status 2 if options are invalid."""
    parser = Parser(prog=prog, description=inspect.getdoc(options))
    parser.add_options(declared_options(options).values())
    given = vars(parser.parse_args(argv))
    try:
        return options(**given)
    except ValueError as error:
        parser.error(str(error))


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors, which never quote values, since one may be a token."""

    def __init__(self, **kwargs):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, argument_default=argparse.SUPPRESS, **kwargs)
        # Only for the help: handled by `main`.
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        message = hide_tokens(" ".join(message.split()).rstrip("."))
        self.exit(2, f"error: {message}{'' if message.endswith('?') else '.'} See `{self.prog} --help`.\n")

    def parse_known_args(self, args=None, namespace=None):
        # Dashes in the name of an option are underscores.
        tokens = [re.sub(r"^--[^=]+", lambda name: f"--{name[0][2:].replace('-', '_')}", token) for token in args]
        return super().parse_known_args(tokens, namespace)

    def parse_args(self, args=None, namespace=None):
        parsed, rest = self.parse_known_args(args, namespace)
        if rest and rest[0].startswith("-"):
            known = [name for action in self._actions for name in action.option_strings]
            self.error(unknown("option", rest[0].partition("=")[0], known))
        if rest:
            self.error("there are more values than the options take")
        return parsed

    def add_options(self, options: Iterable[Declared], undo: bool = False) -> None:
        """Add options of dataclasses, which check the values and set the defaults. To `undo` a recipe, flags take `true` or `false`."""
        groups: dict[str | None, argparse._ActionsContainer] = {None: self}
        for option in options:
            if option.group not in groups:
                groups[option.group] = self.add_argument_group(option.group)
            _add_option(groups[option.group], option, undo)


def _add_option(group: argparse._ActionsContainer, option: Declared, undo: bool) -> None:
    metadata, default = option.field.metadata, option.default
    settings: dict[str, Any] = {"help": _help(option), "metavar": metadata.get("metavar")}
    if option.choices:
        settings["metavar"] = settings["metavar"] or f"{{{','.join(map(str, option.choices))}}}"
    if is_flag := option.types <= {bool, NoneType}:
        settings |= {"const": True, "nargs": "?" if undo else 0}
    elif option.element is not None and str not in option.types:
        settings["nargs"] = "+" if default is MISSING or not metadata.get("positional") else "*"
    settings |= {name: metadata[name] for name in ("nargs", "const") if metadata.get(name)}
    if settings.get("nargs") == 0:
        group.add_argument(f"--{option.name}", action="store_const", const=True, help=settings["help"])
    elif metadata.get("positional"):
        group.add_argument(option.name, type=option.parse, **settings)
    else:
        group.add_argument(f"--{option.name}", type=option.parse, required=default is MISSING, **settings)
    if is_flag and default is True:
        text = f"undo --{option.name}"
        group.add_argument(f"--no_{option.name}", dest=option.name, action="store_const", const=False, help=text)


def _help(option: Declared) -> str:
    text, default = option.field.metadata.get("help", ""), option.default
    if default in (MISSING, None, "") or isinstance(default, (bool, list)) or "default" in text:
        return text
    return f"{text} (default: {default})"
