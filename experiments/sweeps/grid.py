"""Grids: YAML files that define the runs of an experiment."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

from robust_vit_hf.evaluation.options import expand_sets
from robust_vit_hf.models.model_names import BUNDLED_MODEL
from robust_vit_hf.training.recipes import find_recipe, read_recipe, train_values
from robust_vit_hf.utils.files import json_digest
from robust_vit_hf.utils.options import SHARE, Options, names_of, option, unknown

from .choose_settings import TUNED_OPTIONS


PREPARED = "imagenet/"  # prefix of folders within `--imagenet`
PATHS = ("model", "dataset", "backgrounds")  # options that may end in a slash
SEED_NAME = "{seed}"  # stands for the name of the seed in an option


@dataclass(kw_only=True)
class GridFile(Options):
    """Keys of a grid; one of `grid`, `variants` and `seeds` is needed for more than one run.

    `choose_by` is the criterion that chooses among a variant's settings: the paper's, the highest learning rate that
    keeps top-1 on the validation images; or that of bounded_choice.py, which also puts their objects on the
    backgrounds of other images, and needs masks and labels.
    """

    options: dict = option({}, "options of `robust-vit train` for all runs, which override the model's recipe")
    grid: dict = option({}, "lists of values by option, to cross")
    variants: dict = option({}, "options by name; lists are also crossed, so that each method can have its own rates")
    seeds: dict = option({}, "options by name; in texts, `{seed}` stands for the name")
    sets: list[str] = option([], "names of the paper's sets to measure each model on")
    # After the "2-3%" of https://huggingface.co/papers/2206.01161, section 4
    validation_bound: float = option(0.02, "largest fall of top-1 on validation images, a fraction", within=SHARE)
    choose_by: Literal["learning_rate", "mixed_rand"] = option("learning_rate", "rule of the choice")


@dataclass(frozen=True)
class Point:
    name: str  # of its folder, which ends in a hash of `options`
    model: str  # as the grid names it; where the seeds name models, that of the recipe, or the bundled one
    variant: str
    seed: str  # name in the grid
    crossed: dict  # options that are compared, such as `samples_per_class`
    tuned: dict  # options that are chosen, other than the learning rate, see `TUNED_OPTIONS`
    options: dict  # all of `robust-vit train` set by recipe and grid, as JSON values
    seeded: list[str]  # names of the options set by the seed, in which repetitions of a run may differ


@dataclass(frozen=True)
class Grid:
    """The runs of an experiment, with the criterion of [`GridFile`]."""

    points: list[Point]
    sets: list[tuple[str, str]]  # names and folders of the paper's sets; if empty, the sets measured by `train` count
    validation_bound: float
    choose_by: str


class _Loader(yaml.SafeLoader):
    """Reads `3e-6` as a number, and rejects repeated keys, of which YAML would silently use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        known = []
        for key in [key for key, _ in node.value if "merge" not in key.tag]:
            if (name := self.construct_object(key)) in known:
                raise yaml.MarkedYAMLError(problem_mark=key.start_mark, note=f"`{name}` is given a second time")
            known.append(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)


def read_grid(path: Path, imagenet: Path | None = None) -> Grid:
    """Read a grid, with the keys of [`GridFile`]. `imagenet/paper-split` in it is the subfolder `paper-split` of
    `imagenet`, the folder of prepared sets."""
    values, known = read_recipe(path, _Loader), names_of(GridFile)
    try:
        if others := [name for name in values if name not in known]:
            raise ValueError(unknown("option", str(others[0]), known))
        keys = GridFile(**values)
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from None
    points = [*_points(path, keys, TUNED_OPTIONS if keys.choose_by == "mixed_rand" else ())]
    for options in (point.options for point in points):
        if str(options.get("dataset")).startswith(PREPARED):  # on which the names of points do not depend
            options["dataset"] = _in_folder(path, options["dataset"], imagenet)
    names = [name for name, _ in expand_sets(keys.sets)]
    return Grid(
        points,
        [(name, _in_folder(path, f"{PREPARED}{name}", imagenet)) for name in names],
        float(keys.validation_bound),
        keys.choose_by,
    )


def _points(path: Path, keys: GridFile, tuned: tuple[str, ...]) -> Iterator[Point]:
    """Runs of a grid, those of the first seed first. Options among `tuned` are chosen where a variant lists them."""
    shared, crossed = _options(path, "options", keys.options), _options(path, "grid", keys.grid)
    variants, seeds = (
        {str(name): _options(path, f"{part}: {name}", given) for name, given in (of_part or {"": {}}).items()}
        for part, of_part in (("variants", keys.variants), ("seeds", keys.seeds))
    )
    for (seed, of_seed), (variant, of_variant) in product(seeds.items(), variants.items()):
        given = crossed | of_variant
        lists = {name: values for name, values in given.items() if isinstance(values, list)}
        fixed = shared | {name: value for name, value in given.items() if name not in lists}
        for values in product(*lists.values()):
            chosen = dict(zip(lists, values, strict=True))
            chosen_on_images = {name: chosen[name] for name in chosen if name in tuned and name in of_variant}
            yield _point(fixed | chosen, of_seed, variant, seed, chosen, chosen_on_images)


def _options(path: Path, where: str, options: Any) -> dict:
    """Check that the options in a part of a grid can be those of several runs."""
    if not isinstance(options, dict | None):
        raise ValueError(f"`{path}`, {where}: expected a mapping of options to values.")
    for name, value in (options or {}).items():
        if name == "push_to_hub":
            raise ValueError(f"`{path}`, {where}: every run would push to one repository: leave `push_to_hub` out.")
        if value == []:
            raise ValueError(f"`{path}`, {where}: the list of `{name}` has no values, so that there would be no run.")
    return {str(name): value for name, value in (options or {}).items()}


def _point(base: dict, of_seed: dict, variant: str, seed: str, chosen: dict, tuned: dict) -> Point:
    """A run with these options, which override the recipe of the model that the grid names next to its seeds."""
    model, given = base.get("model", BUNDLED_MODEL), base | of_seed
    options = train_values(find_recipe(model, given.get("dataset"), given.get("method")), given)
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


def _in_folder(path: Path, source: str, imagenet: Path | None) -> str:
    if imagenet is None:
        raise ValueError(
            f"`{path}` needs `{source}`: give the folder of your prepared sets with --imagenet (see "
            "experiments/sweeps.md)."
        )
    return str(imagenet / source.removeprefix(PREPARED))
