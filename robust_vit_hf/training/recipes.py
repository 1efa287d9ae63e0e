"""Recipes, YAML files of options for models, methods and benchmarks of the paper, and the parser that reads them."""

from collections.abc import Callable
from dataclasses import fields
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..data.known_sets import BUNDLED_BENCHMARK
from ..models.model_names import BUNDLED_MODEL, find_model
from ..utils.options import unknown
from .config import RobustViTConfig
from .methods import load_method
from .options import DataArguments, ModelArguments


Arguments = tuple[ModelArguments, DataArguments, RobustViTConfig]


@cache
def list_recipes() -> dict[str, Path]:
    """Recipes of this package by name: that of a model, or method and model with a hyphen."""
    folder = Path(str(files(__package__) / "recipe_files"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(model: str | None, dataset: str | None, method: str | None = None) -> str | None:
    """Name of the recipe of a registered model, if there is one for the dataset and method."""
    recipes, name = list_recipes(), find_model(model or BUNDLED_MODEL)
    fitting = {"dataset": dataset or BUNDLED_BENCHMARK, "method": method or RobustViTConfig.method}
    for recipe in (f"{method}-{name}", name):
        values = read_recipe(recipe) if recipe in recipes else None
        if values and all(values.get(option) in (None, value) for option, value in fitting.items()):
            return recipe
    return None


def read_recipe(recipe: str | Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    """Options of a recipe or YAML file. Errors do not quote the file, since it may contain a token."""
    path = list_recipes().get(str(recipe), Path(recipe))
    if not path.is_file():
        raise FileNotFoundError(f"No recipe `{recipe}`: expected a YAML file, or one of {', '.join(list_recipes())}.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), loader)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"`{path}`, line {error.problem_mark.line + 1}, is not valid YAML.") from None
    if not isinstance(values, dict):
        raise ValueError(f"`{path}` must map names of options to values, but holds a {type(values).__name__}.")
    return values


def train_values(recipe: str | Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a recipe, overridden by others. If these name another method, the recipe's loss is left out."""
    values = {} if recipe is None else read_recipe(recipe)
    method = options.get("method")
    if method not in (None, values.get("method", RobustViTConfig.method)):
        shared = {own.name for of in (ModelArguments, DataArguments, TrainingArguments) for own in fields(of)}
        values = {name: value for name, value in values.items() if name in shared}
    return values | options


def train_parser(
    values: dict[str, Any], new_parser: Callable[..., HfArgumentParser] = HfArgumentParser
) -> HfArgumentParser:
    """Parser of `robust-vit train`, whose defaults are `values`. The command saves a checkpoint at SIGTERM, by which
    clusters end jobs. Other callers of the Trainer decide themselves what SIGTERM does."""
    config = load_method(values.get("method", RobustViTConfig.method)).config
    parser = new_parser((ModelArguments, DataArguments, config))
    known = [action.dest for action in parser._actions]
    if others := [str(name) for name in values if name not in known]:
        raise ValueError(unknown("option", others[0], known))
    parser.set_defaults(**{"enable_jit_checkpoint": True} | values)
    return parser


def train_arguments(recipe: str | Path | None = None, **options: Any) -> Arguments:
    """Arguments of [`~robust_vit_hf.finetuning.finetune`] from a recipe and `options`, which override it."""
    parser = train_parser(train_values(recipe, options), partial(HfArgumentParser, exit_on_error=False))
    return parser.parse_args_into_dataclasses([], look_for_args_file=False)
