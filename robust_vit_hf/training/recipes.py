"""Recipes: YAML files of options for the paper's models, methods and benchmarks."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import yaml

from ..data.known_sets import BUNDLED_BENCHMARK
from ..models.model_names import BUNDLED_MODEL, find_model
from ..utils.options import Declared, declared_options, parse_number, unknown
from .options import BESIDE_THE_METHOD, METHOD_OPTIONS, DataArguments, FinetuningArguments, ModelArguments


if TYPE_CHECKING:
    from .config import RobustViTConfig


def list_recipes() -> dict[str, Path]:
    """Recipes of this package by name: a model, after the name of the method and a hyphen if that is not `robustvit`."""
    folder = Path(str(files(__package__) / "recipe_files"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(model: str | None, dataset: str | None, method: str | None = None) -> Path | None:
    """Recipe of a registered model, given by any of its names, if there is one for the dataset and method."""
    recipes, name = list_recipes(), find_model(model or BUNDLED_MODEL)
    fitting = {"dataset": dataset or BUNDLED_BENCHMARK, "method": method or FinetuningArguments.method}
    for recipe in filter(None, (recipes.get(f"{method}-{name}"), recipes.get(name))):
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        if all(values.get(option) in (None, value) for option, value in fitting.items()):
            return recipe
    return None


def read_recipe(path: str | Path, method: str | None = None) -> dict:
    """Options of a recipe or YAML file. If another `method` is given, those that suit only the recipe's method are left out."""
    recipes = list_recipes()
    if str(path) not in recipes and not Path(path).is_file():
        raise FileNotFoundError(f"There is no recipe `{path}`. Give a YAML file, or one of {', '.join(recipes)}.")
    values = read_yaml(recipes.get(str(path), Path(path)))
    if method not in (None, values.get("method", FinetuningArguments.method)):
        return {name: value for name, value in values.items() if name not in (*METHOD_OPTIONS, *BESIDE_THE_METHOD)}
    return values


def read_yaml(path: Path, known: Mapping[str, Declared] | None = None) -> dict:
    """Options of a YAML file. Errors do not quote the file, since it may contain a token."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: dates such as 2026-99-99
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        # The problem without the file's contents.
        reason = re.sub(" '[^'<]{2,}'", "", getattr(error, "problem", None) or type(error).__name__)
        raise ValueError(f"`{path}`{place} is not valid YAML: {reason}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"`{path}` must map names of options to values, but holds a {type(values).__name__}.")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    for name, value in values.items():
        try:
            values[name] = check_option(str(name), value, known)
        except ValueError as error:
            raise ValueError(f"`{path}`, line {lines.get(str(name), 1)}: {error}") from None
    return values


class _Loader(yaml.SafeLoader):
    """Rejects repeated keys, of which YAML would silently use the last."""

    def construct_mapping(self, node, deep=False):
        known: set = set()
        for key, _ in node.value:
            value = self.construct_object(key) if isinstance(key, yaml.ScalarNode) and "merge" not in key.tag else key
            if value in known:
                problem = f"`{key.value}` is given a second time"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            known.add(value)
        return super().construct_mapping(node, deep)


def check_option(name: str, value: Any, known: Mapping[str, Declared] | None = None) -> Any:
    """Check the value of an option, and return it, converted to a number where one is expected. `known` are the options by
    name, by default those of `robust-vit train`."""
    known = known or train_options()
    if name not in known:
        raise ValueError(unknown("option", name, known))
    if isinstance(value, str) and known[name].types <= {int, float, NoneType}:
        value = parse_number(value, known[name].types)  # YAML parses 3e-6 as text
    known[name].check(value)
    return value


@cache
def train_options() -> dict[str, Declared]:
    """All options of `robust-vit train` by name, including those of the Trainer, whose import is slow."""
    from .config import RobustViTConfig

    groups = (ModelArguments, DataArguments, FinetuningArguments, RobustViTConfig)
    return {name: declared for group in groups for name, declared in declared_options(group).items()}


def train_arguments(
    recipe: str | Path | None = None, **options: Any
) -> tuple[ModelArguments, DataArguments, "RobustViTConfig"]:
    """Arguments of [`finetune`], from the options of a recipe and `options`, which override them."""
    from .config import RobustViTConfig

    values = ({} if recipe is None else read_recipe(recipe, options.get("method"))) | options
    model, data = (
        {name: values.pop(name) for name in declared_options(group) if name in values}
        for group in (ModelArguments, DataArguments)
    )
    return ModelArguments(**model), DataArguments(**data), RobustViTConfig(**values)
