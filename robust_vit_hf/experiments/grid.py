"""Grids: YAML files that define the runs of an experiment."""

import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..evaluation.named_sets import NamedSource, expand_sets
from ..models.model_names import BUNDLED_MODEL
from ..utils.files import json_digest
from ..utils.options import unknown
from .recipes import check_train_option, find_recipe, read_recipe, read_yaml


PREPARED = "imagenet/"  # prefix of folders within `--imagenet`
VALIDATION_BOUND = 0.02
# Rules that choose among a variant's settings: the paper's, the highest learning rate that keeps top-1 on the validation images;
# or that of `results.choice`, which also puts their objects on the backgrounds of others, and needs masks and labels.
CHOICES = ("learning_rate", "mixed_rand")
_KEYS = ("options", "grid", "variants", "seeds", "sets", "validation_bound", "choose_by", "mixtures")
# Options that are chosen for each variant on validation images, where the variant lists several values.
TUNED = (
    "learning_rate",
    "relevance_weight",
    "confidence_weight",
    "background_weight",
    "foreground_weight",
    "background_swap",
)
PATHS = ("model", "dataset", "backgrounds")  # options that may end in a slash
SEED_NAME = "{seed}"  # stands for the name of the seed in an option
# Set by the sweep.
_OF_THE_SWEEP = ("output_dir", "resume_from_checkpoint", "push_to_hub")


@dataclass(frozen=True)
class Point:
    """One run of a grid.

    Args:
        name: name of its folder, which ends in a hash of `options`.
        model: model as the grid names it; where the seeds name models, that of the recipe, or the bundled one.
        variant, seed: names in the grid.
        crossed: crossed options that are compared, such as `samples_per_class`.
        tuned: crossed options that are chosen, other than the learning rate, see [`TUNED`].
        options: all options of `robust-vit train` set by recipe and grid, as JSON values.
        seeded: names of the options set by the seed, in which repetitions of a run may differ.
    """

    name: str
    model: str
    variant: str
    seed: str
    crossed: dict
    tuned: dict
    options: dict
    seeded: list[str]


@dataclass(frozen=True)
class Grid:
    """The runs of an experiment.

    Args:
        points: at least one.
        sets: names and folders of the paper's sets to measure each model on; if empty, the sets measured by `train`.
        validation_bound: largest allowed drop of validation top-1, as a fraction, for the choice.
        choose_by: the rule of the choice, see [`CHOICES`].
        mixtures: shares of the finetuned weights, beside 1, with which the models are measured too.
    """

    points: list[Point]
    sets: list[tuple[str, str]]
    validation_bound: float
    choose_by: str
    mixtures: list[float]


def read_grid(path: Path, imagenet: Path | None = None) -> Grid:
    """Read a grid. All keys are optional, but one of `grid`, `variants` and `seeds` is required:

    - `options`: options of `robust-vit train` for all runs, which override the model's recipe;
    - `grid`: lists of values by option, to cross;
    - `variants`, `seeds`: options by name; lists in a variant are also crossed, so that each method can have its own
      learning rates;
    - `sets`: names of the paper's sets to measure each model on;
    - `validation_bound`: see [`Grid`]; 0.02 by default, after the "2-3%" of
      https://huggingface.co/papers/2206.01161, section 4;
    - `choose_by`: a name in [`CHOICES`], `learning_rate` by default;
    - `mixtures`: see [`Grid`]; measured on the validation images and the test images of the dataset, without relevance maps.

    In texts, `{seed}` stands for the name of the seed, so that a seed can have images of its own.

    Args:
        imagenet: folder with outputs of `robust-vit data prepare`, one for each set, named after the set;
            `imagenet/paper-split` in a grid is its subfolder `paper-split`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: no run, or two with the same settings; an unknown key or option, or an invalid value; `imagenet` is
            required but not given. The message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no grid `{path}`: expected a YAML file, such as those in trainer/grids.")
    content = read_yaml(path, _check_key)
    crossed = _options(path, "grid", content.get("grid"), lists=True)
    shared = _options(path, "options", content.get("options"))
    named = {}
    for key in ("variants", "seeds"):
        mapping = content.get(key) or {"": {}}
        named[key] = {
            str(name): _options(path, f"{key}: {name}", options, lists="maybe" if key == "variants" else False)
            for name, options in mapping.items()
        }
    if not any(content.get(key) for key in ("grid", "variants", "seeds")):
        raise ValueError(
            f"`{path}` has no runs: give lists of options in `grid`, or named ones in `variants` or `seeds`."
        )

    choose_by = content.get("choose_by", CHOICES[0])
    if content.get("mixtures") and choose_by != "mixed_rand":
        raise ValueError(
            f"`{path}`: `mixtures` are measured and chosen with `choose_by: mixed_rand` alone: add that, or leave them out."
        )
    points: dict[str, Point] = {}
    # Seeds are outermost, so that a partial sweep has all variants of the first seed.
    for (seed, of_seed), (variant, of_variant) in product(named["seeds"].items(), named["variants"].items()):
        lists = crossed | {name: values for name, values in of_variant.items() if isinstance(values, list)}
        fixed = {name: value for name, value in of_variant.items() if not isinstance(value, list)}
        lists = {name: values for name, values in lists.items() if name not in fixed}
        for values in product(*lists.values()):
            chosen = dict(zip(lists, values, strict=True))
            base = shared | fixed | chosen
            tuned = {
                name: value
                for name, value in chosen.items()
                if choose_by == "mixed_rand" and name in TUNED and name in of_variant
            }
            point = _point(base, of_seed, variant, seed, chosen, tuned)
            digest = point.name.rpartition("-")[2]
            if digest in points:
                raise ValueError(
                    f"`{path}`: `{points[digest].name}` and `{point.name}` are the same run, of the same settings: remove one, "
                    "or set an option apart."
                )
            points[digest] = point
    try:
        sets = [(name, f"{PREPARED}{name}") for name, _ in expand_sets(map(NamedSource, content.get("sets") or []))]
    except ValueError as error:
        raise ValueError(f"`{path}`, sets: {error}") from None
    return Grid(
        [_with_folder(path, point, imagenet) for point in points.values()],
        [(name, _in_folder(path, source, imagenet)) for name, source in sets],
        content.get("validation_bound", VALIDATION_BOUND),
        choose_by,
        content.get("mixtures", []),
    )


def _check_key(name: str, value: Any) -> Any:
    """Check a key of a grid, for [`read_yaml`]."""
    if name not in _KEYS:
        raise ValueError(f"{unknown('key', name, _KEYS)} Known: {', '.join(_KEYS)}.")
    if name == "sets":
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError("Expected `sets` to be a list of names.")
    elif name == "choose_by":
        if value not in CHOICES:
            raise ValueError(f"Expected `choose_by` to be one of {', '.join(CHOICES)}, but got {value}.")
    elif name == "mixtures":
        if not isinstance(value, list) or not all(isinstance(share, float) and 0 < share < 1 for share in value):
            raise ValueError(f"Expected `mixtures` to be a list of shares between 0 and 1, but got {value}.")
    elif name == "validation_bound":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"Expected `validation_bound` to be a fraction from 0 to 1, but got {value}.")
    elif not isinstance(value, dict) or not value:
        raise ValueError(f"`{name}` is empty: expected a mapping of names to values, or leave it out.")
    return float(value) if name == "validation_bound" else value


def _options(path: Path, where: str, options: Any, lists: bool | str = False) -> dict:
    """Check the options in a part of a grid with [`check_train_option`]. If `lists`, each must be a list of values; if
    `maybe`, each may be one."""
    if not isinstance(options, dict) and options is not None:
        raise ValueError(f"`{path}`, {where}: expected a mapping of options to values.")
    checked = {}
    for name, value in (options or {}).items():
        if name in _OF_THE_SWEEP:
            raise ValueError(f"`{path}`, {where}: `{name}` is set by the sweep itself: leave it out.")
        try:
            if lists is True and not isinstance(value, list):
                raise ValueError(f"Expected a list of values of `{name}`.")
            if isinstance(value, list) and lists:
                if not value:
                    raise ValueError(f"The list of `{name}` has no values.")
                checked[name] = [check_train_option(str(name), entry) for entry in value]
            else:
                checked[name] = check_train_option(str(name), value)
        except ValueError as error:
            raise ValueError(f"`{path}`, {where}: {error}") from None
    return checked


def _point(base: dict, of_seed: dict, variant: str, seed: str, chosen: dict, tuned: dict) -> Point:
    """A run with these options, which override the recipe of the model that the grid names beside its seeds."""
    model, given = base.get("model", BUNDLED_MODEL), base | of_seed
    method = given.get("method")
    recipe = find_recipe(model, given.get("dataset"), method)
    options = ({} if recipe is None else read_recipe(recipe, method)) | given
    options.pop("output_dir", None)
    options |= {name: options[name].rstrip("/") or "/" for name in PATHS if isinstance(options.get(name), str)}
    seeded = [*of_seed, *(name for name, value in options.items() if SEED_NAME in str(value) and name not in of_seed)]
    options |= {name: options[name].replace(SEED_NAME, seed) for name in seeded if SEED_NAME in str(options[name])}
    crossed = {name: value for name, value in chosen.items() if name not in ("model", "learning_rate", *tuned)}
    # Names of crossed datasets distinguish numbers of samples and classes.
    shown = [f"{name}-{value}" for name, value in chosen.items() if name != "model"]
    words = [str(model).rstrip("/").rpartition("/")[2], variant, *shown, seed and f"seed-{seed}"]
    name = re.sub(r"[^\w.]+", "-", "-".join(filter(None, words))).strip("-.")[:90]
    others = {name: value for name, value in tuned.items() if name != "learning_rate"}
    return Point(f"{name}-{json_digest(options)}", str(model), variant, seed, crossed, others, options, seeded)


def _with_folder(path: Path, point: Point, imagenet: Path | None) -> Point:
    """The run with the folder of its prepared dataset. Its name does not depend on that folder."""
    dataset = point.options.get("dataset")
    if dataset is None or not dataset.startswith(PREPARED):
        return point
    return replace(point, options=point.options | {"dataset": _in_folder(path, dataset, imagenet)})


def _in_folder(path: Path, source: str, imagenet: Path | None) -> str:
    if imagenet is None:
        raise ValueError(
            f"`{path}` needs `{source}`: give the folder of your prepared sets with --imagenet (see docs/experiments.md)."
        )
    folder = imagenet / source.removeprefix(PREPARED)
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no `{folder}`, which `{path}` needs: make it with `robust-vit data prepare` (see docs/experiments.md)."
        )
    return str(folder)
