"""Options of `robust-vit train`."""

import argparse
import ast
import builtins
import os
import sys
from contextlib import suppress
from copy import copy
from dataclasses import fields, make_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

from transformers import HfArgumentParser

from ..training.arguments import RANGES, DataArguments, FinetuningArguments, ModelArguments
from ..training.recipes import find_recipe, list_recipes, read_recipe
from ..utils.options import check_option, types_of
from .parser import Parser, number, unknown_option


DESCRIPTION = f"""Finetune a model so that its relevance map leaves the background and covers the object.

  robust-vit train                                                   the bundled model and images
  robust-vit train --model vit-b --dataset PATH_OR_ID --output_dir runs/vit-b
  robust-vit train --method gradmask                                 another method, see docs/methods.md
  accelerate launch --module robust_vit_hf.cli train …               on several GPUs; so does trainer/train.py

Options come from a recipe, which the command line overrides: the one that --config names (a YAML file, or one of
{", ".join(list_recipes())}), or else that of the model and method, if they have one."""


class TrainParser(HfArgumentParser, Parser):
    """Parser of dataclasses with the errors of all commands."""


def run(argv: list[str]) -> None:
    model_arguments, data_arguments, config = parse_arguments(argv)

    from ..evaluation.report import FIGURE_FILE
    from ..training.finetune import finetune
    from ..utils.processes import leave

    if table := finetune(model_arguments, data_arguments, config):
        folder = Path(config.output_dir)
        picture = folder / FIGURE_FILE  # of images with labels
        look = f" Look at {picture}." if picture.is_file() else ""
        print(f"\n{table}\n\nModel, card, results.json and table: {folder}.{look}")
    leave(config.device, config.world_size)


def parse_arguments(argv: list[str]) -> tuple:
    """`ModelArguments`, `DataArguments` and `RobustViTConfig` from a recipe, if there is one, and the command line.

    All names, and the values of the options of this package, are checked before the Trainer is imported, which takes seconds.
    """
    recipe, method, argv = _take_recipe(argv)
    own = (ModelArguments, DataArguments, FinetuningArguments)
    trainers, types = trainer_option_types(), option_types()
    known = [f"--{name}" for name in (*types, "config")]
    values = {} if recipe is None else read_recipe(recipe, check_train_option, method)
    parser = _make_parser(own)
    if {"-h", "--help"} & {*argv}:
        _make_parser((*own, _trainer_options())).print_help()
        sys.exit(0)
    for name in (token.partition("=")[0] for token in argv if token.startswith("--")):
        if f"--{name.removeprefix('--').replace('-', '_').removeprefix('no_')}" not in known:
            parser.error(unknown_option(name, known))
    declared = {option.name for arguments in own for option in fields(arguments)}
    for name in RANGES.keys() & trainers.keys() - declared:
        kind = float if float in types[name] else int
        names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        parser.add_argument(*names, type=number(kind, RANGES[name]), default=argparse.SUPPRESS)
    parser.set_defaults(**{name: value for name, value in values.items() if name in declared})
    # Values of the Trainer's options remain, and stray ones, which the complete parser below refuses.
    parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)

    from ..training.config import RobustViTConfig

    parser = _make_parser((*own, _trainer_options()))
    parser.set_defaults(**values)
    *groups, method, rest, surplus = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if surplus:
        parser.error(unknown_option(surplus[0], known))
    config = RobustViTConfig(**vars(method) | vars(rest))
    if recipe is not None and os.environ.get("RANK", "0") == "0":
        print(f"Recipe: {recipe}")
    return *groups, config


def check_train_option(name: str, value: Any) -> Any:
    """Value of an option of `robust-vit train` in a YAML file, text such as 3e-6 as the number that it is.

    Raises:
        ValueError: unknown option, or another value than the option takes; the message names the option.
    """
    types = option_types()
    if name not in types:
        raise ValueError(unknown_option(f"--{name}", [f"--{known}" for known in (*types, "config")]))
    if isinstance(value, str) and types[name] <= {int, float, NoneType}:
        with suppress(ValueError):  # YAML takes 3e-6 for text
            value = (float if float in types[name] else int)(value)
    check_option(name, value, types[name], RANGES.get(name))
    return value


@cache
def option_types() -> dict[str, set[type]]:
    """Types of the values of all options of `robust-vit train`, by name."""
    own = (ModelArguments, DataArguments, FinetuningArguments)
    return trainer_option_types() | {
        option.name: types_of(option.type) for arguments in own for option in fields(arguments)
    }


def _take_recipe(argv: list[str]) -> tuple[Path | None, str | None, list[str]]:
    """The recipe that is named first or with --config, or else that of the model; the method, if it is named; and the
    arguments without the recipe."""
    recipe = None
    if argv and not argv[0].startswith("-"):
        recipe, argv = Path(argv[0]), argv[1:]
    parser = Parser(prog="robust-vit train", add_help=False)
    for name in ("--model", "--dataset", "--method"):
        parser.add_argument(name, nargs="?")
    found, _ = parser.parse_known_args(argv)
    parser = Parser(prog="robust-vit train", add_help=False)
    parser.add_argument("--config", type=Path, default=recipe)
    named, argv = parser.parse_known_args(argv)
    return named.config or find_recipe(found.model, found.dataset, found.method), found.method, argv


def trainer_option_types() -> dict[str, set[type]]:
    """Types of the values of the Trainer's options, by name, read from the source of `TrainingArguments`, whose import takes
    seconds. Types that are not built in, such as enumerations, count as text."""
    tree = ast.parse(Path(find_spec("transformers.training_args").origin).read_text(encoding="utf-8"))
    (declared,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    types = {}
    for option in (
        node for node in declared.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ):
        parts = list(ast.walk(option.annotation))
        types[option.target.id] = {getattr(builtins, part.id, str) for part in parts if isinstance(part, ast.Name)}
        types[option.target.id] |= {type(part.value) for part in parts if isinstance(part, ast.Constant)}
    return types


def _trainer_options() -> type:
    """Dataclass of the Trainer's options that this package does not declare."""
    from transformers import TrainingArguments

    own = {option.name for option in fields(FinetuningArguments)}
    hints = get_type_hints(TrainingArguments)
    own.add("debug")  # whose name is that of an option of all commands; a recipe can set it
    rest = [option for option in fields(TrainingArguments) if option.init and option.name not in own]
    options = [(option.name, hints[option.name], copy(option)) for option in rest]
    return make_dataclass(
        "TrainerOptions", options, namespace={"_argument_group_name": "options of transformers.Trainer"}
    )


def _make_parser(groups: tuple) -> TrainParser:
    parser = TrainParser(
        groups,
        prog="robust-vit train",
        usage="robust-vit train [--config RECIPE] [options]",
        description=DESCRIPTION,
        formatter_class=_HelpFormatter,
    )
    # For the help alone: `_take_recipe` takes it.
    parser.add_argument("--config", metavar="RECIPE", default=argparse.SUPPRESS, help="recipe, see above")
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults, and the description as it is."""
