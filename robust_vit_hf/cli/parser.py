"""Argument parser for dataclasses of options, with one-line errors."""

import argparse
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING
from functools import partial
from shutil import get_terminal_size
from textwrap import dedent, fill, indent
from types import NoneType
from typing import Any, NoReturn

from ..utils.options import Declared, Options, declared_options, unknown
from ..utils.privacy import hide_tokens


# Options that `--help` shows, by their title; `--help_all` shows all.
COMMON = {
    "input": "folder source before after images model compare dataset split eval_split sets set masks results diagnose evaluation "
    "classes category in_distribution shifted",
    "settings": "method effort other_backgrounds only_these_classes attributes num_images protocols methods weight weights per_class prompts "
    "detector segmenter threshold to image_size learning_rate num_train_epochs background_swap lora_rank per_device_train_batch_size "
    "batch_size port skip_bad",
    "output": "output_dir json html fail_if export private revision commit_message report_to push_to_hub",
}
TITLES = {name: title for title, names in COMMON.items() for name in names.split()}


def parse(options: type[Options], prog: str, argv: list[str]) -> Options:
    """Parse arguments, or exit after printing the help, or with status 2 if options are invalid."""
    declared = declared_options(options).values()
    places = [of for of in declared if of.field.metadata.get("positional")]
    needed = [f"--{of.name} …" for of in declared if of.default is MISSING and of not in places]
    usage = [prog, *(of.field.metadata["metavar"] or of.name for of in places), *needed, "[options]"]
    parser = Parser(prog, inspect.getdoc(options), argv, usage=" ".join(usage))
    parser.add_options(declared)
    given = vars(parser.parse_args(argv))
    try:
        return options(**given)
    except ValueError as error:
        parser.error(str(error))


class Parser(argparse.ArgumentParser):
    """Argument parser with errors of one line, which never quote values, since one may be a token. The help begins with the paragraphs of `text`.
    Those that begin with `prog` are examples, which end the help: only the first, unless `argv` has `--help_all`."""

    def __init__(self, prog: str, text: str, argv: Sequence[str] = (), **kwargs):
        self.shows_all = not {"--help_all", "--help-all"}.isdisjoint(argv)
        parts, width = text.split("\n\n"), get_terminal_size().columns - 2
        kwargs["description"] = "\n\n".join(fill(part, width) for part in parts if not part.lstrip().startswith(prog))
        if examples := "\n".join(part for part in parts if part.lstrip().startswith(prog)):
            shown = dedent(examples if self.shows_all else examples.partition("\n")[0])
            kwargs["epilog"] = f"for example:\n{indent(shown, '  ')}"
        kwargs["formatter_class"] = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        kwargs = {"argument_default": argparse.SUPPRESS} | kwargs
        super().__init__(prog=prog, add_help=False, allow_abbrev=False, **kwargs)
        self.groups = {title: self.add_argument_group(title) for title in (*COMMON, "help")}
        self.groups["help"].add_argument("-h", "--help", action="help", help="show this help")
        # Only for the help: `main` handles the option.
        text = "show the traceback of an error"
        self.groups["help"].add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, dest="show_traceback", help=text
        )

    def error(self, message: str) -> NoReturn:
        message = hide_tokens(" ".join(message.split()).rstrip("."))
        self.exit(2, f"error: {message}{'' if message.endswith('?') else '.'} See `{self.prog} --help`.\n")

    def parse_known_args(self, args=None, namespace=None):
        # Dashes in the name of an option are accepted for underscores.
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
        """Add options of dataclasses, which check values and set defaults. With `undo`, flags take `true` or `false`, to override a recipe."""
        self.groups["help"].add_argument("--help_all", action="help", help="show all options and examples")
        for option in sorted(options, key=lambda option: [*TITLES, option.name].index(option.name)):
            is_needed = option.default is MISSING or option.field.metadata.get("positional")
            title = TITLES.get(option.name, "input" if is_needed else option.group or "more options")
            group = self.groups.get(title) or self.groups.setdefault(title, self.add_argument_group(title))
            _add_option(group, option, _help(option) if title in COMMON or self.shows_all else argparse.SUPPRESS, undo)


def _add_option(group: argparse._ActionsContainer, option: Declared, text: str, undo: bool) -> None:
    metadata, default = option.field.metadata, option.default
    metavar = "N" if option.types & {int, float} and str not in option.types else None
    settings: dict[str, Any] = {"help": text, "metavar": metadata.get("metavar") or metavar}
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
        text = argparse.SUPPRESS if text == argparse.SUPPRESS else f"undo --{option.name}"
        group.add_argument(f"--no_{option.name}", dest=option.name, action="store_const", const=False, help=text)


def _help(option: Declared) -> str:
    text, default = option.field.metadata.get("help", ""), option.default
    if default in (MISSING, None, "") or isinstance(default, (bool, list)) or "default" in text:
        return text
    return f"{text} (default: {default})"
