"""What the parsers of all commands share."""

import argparse
import difflib
from collections.abc import Iterable
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line. They name options and never values, one of which may be a token."""

    def __init__(self, **kwargs):
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | kwargs)

    def error(self, message: str):
        message = " ".join(message.split()).rstrip(".")
        self.exit(2, f"error: {message}{'' if message.endswith('?') else '.'} See `{self.prog} --help`.\n")

    def parse_args(self, args=None, namespace=None):
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(unknown_option(rest[0], [name for action in self._actions for name in action.option_strings]))
        return parsed


def unknown_option(token: str, known: Iterable[str]) -> str:
    """What is wrong with a token that no option takes."""
    if not token.startswith("-"):
        return "there are more values than the options take"
    name = token.partition("=")[0]
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown option {name}" + (f"; did you mean {close[0]}?" if close else "")


def named_source(text: str) -> tuple[str, str | None]:
    """`NAME` or `NAME=SOURCE`: the name of a set, and where it is."""
    name, _, source = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"`{text}` names no set: expected NAME or NAME=SOURCE")
    return name, source or None


def check_sets(parser: Parser, named: Iterable[tuple[str, str | None]]) -> None:
    """Refuse names of sets that cannot be evaluated as wrong arguments."""
    from ..evaluation.set_names import check_set_names  # not for `robust-vit --help`: it imports datasets

    try:
        check_set_names([name for name, _ in named])
    except ValueError as error:
        parser.error(str(error))


def add_output_dir(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """`--output_dir`, which is required where it has no default."""
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=default and Path(default),
        required=default is None,
        help="folder to write" + (f" (default: {default})" if default else ""),
    )


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Options of every pass over evaluation sets."""
    parser.add_argument(
        "--images_per_set", type=int, default=200, help="images of each set of a benchmark (default: 200)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images that a process takes at once (default: 32)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read images, of each process")
