"""Recipes: YAML files of options, one for each of the paper's models and one for each benchmark."""

from importlib.resources import files
from pathlib import Path

import yaml

from ..data.benchmarks import BUNDLED_BENCHMARK
from ..models.registry import BUNDLED_MODEL, find_model


def list_recipes() -> dict[str, Path]:
    """The recipes of this package, by the name of their model."""
    folder = Path(str(files(__package__) / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(model: str | None, dataset: str | None) -> Path | None:
    """The recipe of a registered model, under any of its names; otherwise `None`. A recipe that names a dataset is for that
    dataset alone.

    Args:
        model: as for [`find_model`]; `None` for the bundled model.
        dataset: path or id; `None` for the bundled images.
    """
    recipe = list_recipes().get(find_model(model or BUNDLED_MODEL))
    if recipe is None or read_recipe(recipe).get("dataset", dataset) not in (dataset, dataset or BUNDLED_BENCHMARK):
        return None
    return recipe


def read_recipe(path: Path) -> dict:
    """Options by name of a YAML file, or of one of [`list_recipes`]. Values are checked when the options are parsed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a YAML mapping; the message names file and line.
    """
    path = list_recipes().get(str(path), path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no recipe `{path}`; expected a YAML file, or one of {', '.join(list_recipes())}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`{path}` is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"`{path}` must be a mapping of option names to values, got a {type(values).__name__}.")
    return values
