"""`robust-vit train`: options from a recipe and the command line."""

import argparse
import os
from functools import partial

from ..training.recipes import Arguments, find_recipe, list_recipes, train_parser, train_values
from .parser import Parser


DESCRIPTION = f"""Finetune a model on images with masks, so that its relevance map leaves the background and covers the object, as in
RobustViT (https://huggingface.co/papers/2206.01161), and measure it before and after.

Options come from a recipe, which the command line overrides: the one that --config names (a YAML file, or one of
{", ".join(list_recipes())}), or else the recipe of the model and method, if there is one.

  robust-vit train --model vit-b --dataset photos-masks --output_dir runs/vit-b
  robust-vit train                       # the bundled model and images
  robust-vit train --method gradmask     # another method, see docs/train.md
  accelerate launch --module robust_vit_hf.cli train --model vit-b    # on several GPUs; so does trainer/train.py"""


def parse_arguments(argv: list[str]) -> Arguments:
    """Arguments of [`~robust_vit_hf.finetuning.finetune`]; exits like [`~robust_vit_hf.cli.parser.parse`]."""
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in ("--config", "--model", "--dataset", "--method"):
        first.add_argument(name)
    given = vars(first.parse_known_args(argv)[0])
    usage = "robust-vit train [--config RECIPE] [options]"
    new_parser = partial(Parser, prog="robust-vit train", text=DESCRIPTION, argv=argv, usage=usage)
    recipe = given.pop("config", None) or find_recipe(*(given.get(name) for name in ("model", "dataset", "method")))
    try:
        parser = train_parser(train_values(recipe, given), new_parser)
    except (ValueError, OSError) as error:
        of_file = "" if recipe is None or str(recipe) in str(error) else f"`{recipe}`: "
        new_parser(()).error(f"{of_file}{error}")
    parser.add_argument("--config", metavar="RECIPE", help="recipe, see above")
    arguments = parser.parse(argv)
    if recipe is not None and os.environ.get("RANK", "0") == "0":
        print(f"Recipe: {list_recipes().get(str(recipe), recipe)}")
    return arguments


def train(arguments: Arguments) -> str:
    """Finetune, and return the table and the output folder as text; an empty string outside the main process."""
    from ..finetuning import finetune

    table = finetune(*arguments)
    return f"\n{table}\n\nModel, card, results.json and table: {arguments[-1].output_dir}." if table else ""
