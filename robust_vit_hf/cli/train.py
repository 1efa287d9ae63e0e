"""`robust-vit train`: options from a recipe and the command line."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..training.recipes import Arguments, find_recipe, list_recipes, train_parser, train_values
from .parser import TITLES, Parser


DESCRIPTION = f"""Finetune a model on images with masks, so that its relevance map leaves the background and covers the object, as in
RobustViT (https://huggingface.co/papers/2206.01161), and measure it before and after.

Options come from a recipe, which the command line overrides: the one that --config names (a YAML file, or one of
{", ".join(list_recipes())}), or else the recipe of the model and method, if there is one.

  robust-vit train --model vit-b --dataset photos-masks --output_dir runs/vit-b
  robust-vit train                       # the bundled model and images
  robust-vit train --method gradmask     # another method, see docs/train.md
  accelerate launch --module robust_vit_hf.cli train --model vit-b    # on several GPUs; so does trainer/train.py"""


class TrainParser(Parser, HfArgumentParser):
    """Parser of dataclasses, as `HfArgumentParser` adds them, with the help of [`Parser`]."""

    def __init__(self, dataclass_types: Sequence[type], **settings):
        usage = "robust-vit train [--config RECIPE] [options]"
        super().__init__(usage=usage, argument_default=None, **settings)
        self.groups["help"].add_argument("--help_all", action="help", help="show all options and examples")
        self.dataclass_types = [*dataclass_types]
        for dataclass_type in dataclass_types:
            self._add_dataclass_arguments(dataclass_type)

    def add_argument(self, *names: str, **settings) -> argparse.Action:
        """Add an option to its group, under the name with underscores, since others are accepted for it. The help shows common ones."""
        option, name = names[0], names[0].removeprefix("--")
        if name == "debug":  # an option of all commands has this name
            option, settings = "--trainer_debug", settings | {"dest": name}
        title, default = TITLES.get(name, "more options"), settings.get("default")
        if title == "more options" and not self.shows_all:
            settings["help"] = argparse.SUPPRESS
        elif name.startswith("no_"):
            settings["help"] = f"undo --{settings['dest']}"
        elif (
            default not in (None, "")
            and not isinstance(default, (bool, list, dict))
            and "default" not in settings["help"]
        ):
            settings["help"] += f" (default: {default})"
        if settings.get("type") is string_to_bool:  # also where `None` is the default
            settings |= {"nargs": "?", "const": True}
        if settings.get("type") in (int, float):
            settings["metavar"] = "N"
        group = self.groups.get(title) or self.groups.setdefault(title, self.add_argument_group(title))
        return group.add_argument(option, **settings)

    def parse(self, argv: list[str]) -> tuple:
        """The dataclasses, from arguments and defaults. Exits with status 2 if options are invalid."""
        self.parse_args(argv)  # names an unknown option
        try:
            return self.parse_args_into_dataclasses(argv, look_for_args_file=False)[: len(self.dataclass_types)]
        except ValueError as error:
            self.error(str(error))


def parse_arguments(argv: list[str]) -> Arguments:
    """Arguments of [`~robust_vit_hf.finetuning.finetune`]; exits like [`~robust_vit_hf.cli.parser.parse`]."""
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--config", "--model", "--dataset", "--method"):
        first.add_argument(name)
    named, _ = first.parse_known_args(argv)
    given = {name: value for name, value in vars(named).items() if value is not None}
    settings = {"prog": "robust-vit train", "text": DESCRIPTION, "argv": argv}
    recipe = given.pop("config", None) or find_recipe(*(given.get(name) for name in ("model", "dataset", "method")))
    try:
        parser = train_parser(train_values(recipe, given), TrainParser, **settings)
    except (ValueError, OSError) as error:
        of_file = "" if recipe is None or str(recipe) in str(error) else f"`{recipe}`: "
        TrainParser((), **settings).error(f"{of_file}{error}")
    parser.groups["input"].add_argument("--config", metavar="RECIPE", help="recipe, see above")
    arguments = parser.parse(argv)
    if recipe is not None and os.environ.get("RANK", "0") == "0":
        print(f"Recipe: {list_recipes().get(str(recipe), recipe)}")
    return arguments


def train(arguments: Arguments) -> str:
    """Finetune, and return the table and the output folder as text; an empty string outside the main process."""
    from ..evaluation.examples import FIGURE_FILE
    from ..finetuning import finetune

    table = finetune(*arguments)
    folder = Path(arguments[-1].output_dir)
    picture = folder / FIGURE_FILE  # there is none for images without labels
    look = f" Look at {picture}." if picture.is_file() else ""
    return f"\n{table}\n\nModel, card, results.json and table: {folder}.{look}" if table else ""
