"""`robust-vit train`: options from a recipe and the command line."""

import os
from pathlib import Path

from ..training.recipes import find_recipe, list_recipes, train_arguments, train_options
from .parser import Parser


DESCRIPTION = f"""Finetune a model on images with masks, so that its relevance map leaves the background and covers the object, as in
RobustViT (https://huggingface.co/papers/2206.01161), and measure it before and after.

Options come from a recipe, which the command line overrides: the one that --config names (a YAML file, or one of
{", ".join(list_recipes())}), or else the recipe of the model and method, if there is one.

  robust-vit train --model vit-b --dataset photos-masks --output_dir runs/vit-b
  robust-vit train                       # the bundled model and images
  robust-vit train --method gradmask     # another method, see docs/train.md
  accelerate launch --module robust_vit_hf.cli train --model vit-b    # on several GPUs; so does trainer/train.py"""


def parse_arguments(argv: list[str]) -> tuple:
    """Arguments of [`finetune`]; exits like [`~robust_vit_hf.cli.parser.parse`]."""
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    prog = "robust-vit train"
    parser = Parser(prog, DESCRIPTION, argv, usage=f"{prog} [--config RECIPE] [options]")
    parser.groups["input"].add_argument("--config", metavar="RECIPE", help="recipe, see above")
    # --debug is an option of all commands. Only a recipe can set the Trainer's option of this name.
    parser.add_options([option for option in train_options().values() if option.name != "debug"], undo=True)
    options = vars(parser.parse_args(argv))
    named = options.pop("config", None)
    recipe = named or find_recipe(*(options.get(name) for name in ("model", "dataset", "method")))
    try:
        arguments = train_arguments(recipe, **options)
    except ValueError as error:
        parser.error(str(error))
    if recipe is not None and os.environ.get("RANK", "0") == "0":
        print(f"Recipe: {list_recipes().get(str(recipe), recipe)}")
    return arguments


def train(arguments: tuple) -> str:
    """Finetune, and return the table and the output folder as text; an empty string outside the main process."""
    from ..evaluation.examples import FIGURE_FILE
    from ..training.finetuning import finetune

    table = finetune(*arguments)
    folder = Path(arguments[-1].output_dir)
    picture = folder / FIGURE_FILE  # there is none for images without labels
    look = f" Look at {picture}." if picture.is_file() else ""
    return f"\n{table}\n\nModel, card, results.json and table: {folder}.{look}" if table else ""
