"""Recipes: YAML files of options, one for each of the paper's models and one for each benchmark."""

from importlib.resources import files
from pathlib import Path

import yaml

from ..models.registry import find_model


def list_recipes() -> dict[str, Path]:
    """The recipes of this package, by the name of their model."""
    folder = Path(str(files(__package__) / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(model: str | None, dataset: str | None) -> Path | None:
    """The recipe of a model of the paper, under any of its names, or of the bundled model on its own images; otherwise `None`.

    Args:
        model: name, Hub id or folder; `None` for the bundled model.
        dataset: path or id; `None` for the bundled images.
    """
    name = "emoji-shift" if model is None else find_model(model)
    if name == "emoji-shift" and dataset not in (None, "emoji-shift"):
        return None
    return list_recipes().get(name)


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
