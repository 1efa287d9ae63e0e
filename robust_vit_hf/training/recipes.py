"""Recipes: YAML files of options, one for each of the paper's models and methods and one for each benchmark."""

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..data.benchmarks import BUNDLED_BENCHMARK
from ..models.registry import BUNDLED_MODEL, find_model
from .arguments import METHOD_OPTIONS, FinetuningArguments


def list_recipes() -> dict[str, Path]:
    """The recipes of this package, by the name of their model, after that of their method if it is not the paper's."""
    folder = Path(str(files(__package__) / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(model: str | None, dataset: str | None, method: str | None = None) -> Path | None:
    """The recipe of a registered model, under any of its names; otherwise `None`. A recipe that names a dataset or a method is
    for that one alone.

    Args:
        model: as for [`find_model`]; `None` for the bundled model.
        dataset: path or id; `None` for the bundled images.
        method: as for `--method`; `None` for its default.
    """
    recipes, name = list_recipes(), find_model(model or BUNDLED_MODEL)
    for recipe in (recipes.get(f"{method}-{name}"), recipes.get(name)):
        values = {} if recipe is None else yaml.safe_load(recipe.read_text(encoding="utf-8"))
        if recipe is not None and (
            values.get("dataset") in (None, dataset or BUNDLED_BENCHMARK)
            and values.get("method") in (None, method or FinetuningArguments.method)
        ):
            return recipe
    return None


def read_recipe(path: Path, check: Callable[[str, Any], Any], method: str | None = None) -> dict:
    """Options by name of a YAML file, or of one of [`list_recipes`].

    Args:
        method: that is asked for. If it is not that of the recipe, the recipe's options of its method are left out.
        check: gives the value of an option, by name and value in the file, and raises a `ValueError` for an option that is
            unknown or has no such values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a YAML mapping, names an option twice, or `check` refuses an option; the message names file and
            line, and quotes nothing, since a line may hold a token.
    """
    path = list_recipes().get(str(path), path)
    try:
        text = path.read_text(encoding="utf-8")
        values, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no recipe `{path}`; expected a YAML file, or one of {', '.join(list_recipes())}."
        ) from None
    except IsADirectoryError:
        raise ValueError(
            f"`{path}` is a folder; expected a recipe, a YAML file. Name images with --dataset."
        ) from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: dates such as 2026-99-99, text not in UTF-8
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        reason = re.sub(
            " '[^'<]{2,}'", "", getattr(error, "problem", None) or type(error).__name__
        )  # names in the file
        raise ValueError(f"`{path}`{place}: not valid YAML: {reason}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"`{path}` must be a mapping of option names to values, got a {type(values).__name__}.")
    _check_keys(path, node)
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    for name, value in values.items():
        try:
            values[name] = check(str(name), value)
        except ValueError as error:
            raise ValueError(f"`{path}`, line {lines.get(str(name), 1)}: {error}") from None
    if method not in (None, values.get("method", FinetuningArguments.method)):
        return {name: value for name, value in values.items() if name not in METHOD_OPTIONS}
    return values


def _check_keys(path: Path, root: yaml.Node) -> None:
    """Refuse a key that a mapping, this or one in it, holds twice: YAML takes the last."""
    nodes, checked = [root], set()  # an alias may stand for a mapping around it
    while nodes:
        node = nodes.pop()
        if not isinstance(node, yaml.MappingNode) or id(node) in checked:
            continue
        checked.add(id(node))
        known = set()
        for key, value in node.value:
            if key.value in known:
                raise ValueError(f"`{path}`, line {key.start_mark.line + 1}: `{key.value}` is given a second time.")
            known.add(key.value)
            nodes.append(value)
