"""Parser, options and error messages that the commands share."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..data.benchmarks import IMAGES_PER_SET, benchmarks
from ..models.registry import BUNDLED_MODEL, MODELS
from ..utils.options import Range


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line. They name options and never values, one of which may be a token."""

    def __init__(self, **kwargs):
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | kwargs)
        if self.add_help:  # shown there; `main` takes it
            text = "show the traceback of an error"
            self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)

    def error(self, message: str):
        message = re.sub(r"hf_\w+", "hf_…", " ".join(message.split()).rstrip("."))
        self.exit(2, f"error: {message}{'' if message.endswith('?') else '.'} See `{self.prog} --help`.\n")

    def parse_args(self, args=None, namespace=None):
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(unknown_option(rest[0], [name for action in self._actions for name in action.option_strings]))
        return parsed


def unknown_option(token: str, known: Iterable[str]) -> str:
    """Error message for a token that no option takes."""
    if not token.startswith("-"):
        return "there are more values than the options take"
    return unknown("option", token.partition("=")[0], known)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Error message for an unknown option or command, with the known one that is most similar. Of a name it shows the part that
    cannot be of a token."""
    shown = re.match(r"((?!hf_)[a-z0-9_-])*", name).group()
    close = difflib.get_close_matches(shown, known, n=1)
    return f"unknown {kind} {shown}{'…' * (shown != name)}" + (f"; did you mean {close[0]}?" if close else "")


def number(kind: type[int] | type[float], allowed: Range) -> Callable[[str], int | float]:
    """Type of an option of the command line that takes numbers in a range."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if value not in allowed:
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {name} {allowed}, but got `{text}`")
        return value

    return parse


count = number(int, Range(1))
count_from_zero = number(int, Range(0))


def add_writer_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that write images as parquet."""
    add_output_dir(parser)
    parser.add_argument("--skip_bad", action="store_true", help="leave out rows that cannot be used, and list them")
    parser.add_argument("--rows_per_shard", type=count, default=1000)


def named_source(text: str) -> tuple[str, str | None]:
    """Name and source of a set, from `NAME` or `NAME=SOURCE`."""
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
    """`--output_dir`, which is required if it has no default."""
    text = "folder to write" if default is None else f"folder to write (default: {default})"
    parser.add_argument("--output_dir", type=Path, default=default, required=default is None, help=text)


def add_pass_options(parser: argparse._ActionsContainer) -> None:
    """Options of every pass over evaluation sets."""
    add_images_per_set(parser)
    parser.add_argument(
        "--batch_size", type=count, default=32, help="images that a process takes at once (default: 32)"
    )
    parser.add_argument(
        "--num_workers", type=count_from_zero, default=0, help="processes that read images, of each process"
    )


def add_images_per_set(parser: argparse._ActionsContainer) -> None:
    """`--images_per_set`."""
    parser.add_argument(
        "--images_per_set",
        type=count,
        default=IMAGES_PER_SET,
        help=f"images of each set of a benchmark (default: {IMAGES_PER_SET})",
    )


def add_pair_options(parser: argparse.ArgumentParser, dataset: str, compare_required: bool = False) -> None:
    """The models before and after finetuning, and images of your own, with the help of `--dataset`."""
    parser.add_argument("--model", default=BUNDLED_MODEL, help="name, folder or Hub id; the bundled model by default")
    parser.add_argument("--compare", required=compare_required, help="the model after finetuning")
    parser.add_argument("--dataset", help=dataset)
    parser.add_argument("--split", default="validation", help="split of --dataset")


def add_sets(parser: argparse.ArgumentParser) -> None:
    """`--sets`, whose default [`chosen_sets`] gives."""
    from ..evaluation.set_names import PAPER_SETS

    parser.add_argument(
        "--sets",
        nargs="+",
        type=named_source,
        metavar="NAME[=PATH_OR_ID]",
        help=f"benchmarks ({', '.join(benchmarks())}: the default) or sets of the paper ({', '.join(PAPER_SETS)}), each from "
        "the Hub or from the output of `robust-vit data prepare`",
    )


def chosen_sets(parser: Parser, arguments: argparse.Namespace) -> list[tuple[str, str | None]]:
    """The sets of `--sets`, or else the benchmarks, unless `--dataset` is given."""
    if arguments.sets is None:
        return [] if arguments.dataset else [(name, None) for name in benchmarks()]
    check_sets(parser, arguments.sets)
    return arguments.sets


def add_evaluation_options(parser: argparse.ArgumentParser, dataset: str, output_dir: str) -> None:
    """Options of `robust-vit evaluate` and `segment`, with the help of `--dataset` and the default of `--output_dir`."""
    add_pair_options(parser, dataset)
    parser.add_argument(
        "--paper_model",
        choices=[entry.paper_name for entry in MODELS.values() if entry.paper_name],
        help="the paper's name of --model; by default that of the registered model with these weights",
    )
    add_pass_options(parser)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    add_output_dir(parser, output_dir)


def run_evaluation(evaluate: Callable[..., str], arguments: argparse.Namespace, written: str) -> None:
    """Run `robust-vit evaluate` or `segment`, whose options are the arguments of `evaluate`. Prints its tables, and the names
    of the files that it has `written`."""
    from ..utils.processes import leave, make_accelerator
    from ..utils.publishable import public_settings

    options = vars(arguments)
    settings = public_settings(options)
    accelerator = make_accelerator(options.pop("bf16"))
    if tables := evaluate(**options, accelerator=accelerator, settings=settings):
        print(f"\n{tables}\n{written}: {arguments.output_dir}")
    leave(accelerator.device, accelerator.num_processes)
