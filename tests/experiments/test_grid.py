"""Grids: which runs they define, and what is rejected before the first run."""

import shutil
from pathlib import Path

import pytest
import yaml

from experiments.sweeps.grid import read_grid
from experiments.sweeps.sweep import SweepRun, protocol_of

from ..helpers.commands import call
from ..helpers.experiment import sweep, write_grid
from ..helpers.tiny import ROOT


@pytest.fixture
def points_of(inputs, tmp_path):
    """Points of a grid with the given keys."""
    return lambda *options, **keys: read_grid(write_grid(tmp_path / "grid.yaml", inputs, *options, **keys)).points


@pytest.mark.parametrize("name", ["model", "dataset", "backgrounds"])
def test_a_path_with_a_slash_at_its_end_is_the_same_run(name, points_of):
    (first,), (second,) = (points_of(variants={"a": {name: path}}) for path in ("images/data", "images/data/"))
    assert first.name == second.name


def test_learning_rates_of_a_variant_are_crossed(points_of):
    variants = {"a": {"learning_rate": ["1e-3", 1e-4], "seed": 3}, "b": {"learning_rate": 1e-2}}
    crossed = points_of(variants=variants, grid={"samples_per_class": [1, 2], "learning_rate": [1]})
    chosen = [(point.variant, point.options["learning_rate"], point.crossed) for point in crossed]
    one, two = {"samples_per_class": 1}, {"samples_per_class": 2}
    assert chosen == [
        ("a", 1e-3, one), ("a", 1e-3, two), ("a", 1e-4, one), ("a", 1e-4, two), ("b", 1e-2, one), ("b", 1e-2, two)
    ]  # fmt: skip


def test_weights_of_a_variant_are_chosen_where_the_rule_says_so(inputs, tmp_path):
    variants = {"a": {"relevance_weight": [0.1, 1], "learning_rate": [1e-3, 1e-4]}, "b": {"dataset": "images/{seed}"}}
    seeds = {"x": {"seed": 1, "model": "first"}, "y": {"seed": 2, "model": "second"}}
    keys = {"variants": variants, "seeds": seeds, "choose_by": "mixed_rand"}
    grid = read_grid(write_grid(tmp_path / "grid.yaml", inputs, **keys))
    assert grid.choose_by == "mixed_rand"
    assert [point.tuned for point in grid.points if point.variant == "a" and point.seed == "x"] == [
        {"relevance_weight": weight} for weight in (0.1, 1, 0.1, 1)
    ]
    for point in grid.points:  # the seeds' models are one, and so are their images
        assert point.crossed == {} and point.model == str(inputs / "model")
        assert point.options["model"] == {"x": "first", "y": "second"}[point.seed]
        if point.variant == "b":
            assert point.options["dataset"] == f"images/{point.seed}" and "dataset" in point.seeded
    grid = read_grid(write_grid(tmp_path / "compared.yaml", inputs, variants={"a": {"relevance_weight": [0.1, 1]}}))
    assert [(point.tuned, point.crossed) for point in grid.points] == [
        ({}, {"relevance_weight": weight}) for weight in (0.1, 1)
    ]


def test_models_of_the_paper_are_measured_as_in_the_paper(inputs, points_of):
    """Their published figures are of its preprocessing."""
    cases = [("vit-b", "native", "paper"), ("vit-b", "model", "paper"), (str(inputs / "model"), "native", "native")]
    for model, given, protocol in cases:
        (point,) = points_of({"model": model, "protocol": given}, seeds={0: {}})
        assert protocol_of(point) == protocol


def test_names_do_not_depend_on_the_place_of_imagenet(inputs, tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", inputs, {"dataset": "imagenet/data"}, seeds={0: {}})
    shutil.copytree(inputs / "data", tmp_path / "elsewhere" / "data")
    here, there = (read_grid(grid, root).points for root in (inputs, tmp_path / "elsewhere"))
    assert [point.name for point in here] == [point.name for point in there]
    assert there[0].options["dataset"] == str(tmp_path / "elsewhere" / "data")
    sweep(grid, tmp_path / "out", "--imagenet", inputs)
    again = sweep(grid, tmp_path / "out", "--imagenet", tmp_path / "elsewhere", "--dry_run")
    assert "All 1 runs are complete." in again


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_grids_of_the_paper(path, tmp_path):
    """Each parses, and its options are those of `train` and of its methods; its header says how it is run."""
    for name in yaml.safe_load(path.read_text()).get("sets", []):
        (tmp_path / name).mkdir()
    for word in path.read_text().replace(",", " ").replace("}", " ").split():
        if word.startswith("imagenet/"):
            (tmp_path / word.removeprefix("imagenet/")).mkdir(exist_ok=True)
    grid = read_grid(path, tmp_path)
    numbers = {"models-on-real-images": 54, "models-on-synthetic-images": 54, "ablations": 10}
    numbers |= {"draws-of-classes": 21, "samples-and-classes": 9}
    numbers |= {"emoji-shift-search": 69, "emoji-shift-others-search": 8, "emoji-shift-rates": 120}
    numbers |= {"emoji-shift-others-rates": 24, "emoji-shift-others": 35, "emoji-shift": 40}
    numbers |= {"emoji-shift-steps": 15, "emoji-shift-textures": 5, "emoji-shift-lp-ft": 15, "emoji-shift-scratch": 9}
    assert len(grid.points) == numbers[path.stem]
    for point in grid.points:
        assert SweepRun(point, tmp_path).arguments[-1].learning_rate == point.options["learning_rate"]
    by_make = path.stem.startswith("emoji-shift")
    run_by = "experiments/Makefile runs it" if by_make else f"sweep experiments/grids/{path.name} "
    assert run_by in path.read_text()


@pytest.mark.parametrize("name", ["models-on-real-images", "models-on-synthetic-images"])
def test_baselines_of_the_paper(name, tmp_path):
    """On the models that the paper has them for, at the rates and weights of its Tables 6 and 7."""
    grid = yaml.safe_load((ROOT / "experiments" / "grids" / f"{name}.yaml").read_text())
    for folder in ("paper-split", "paper-split-tokencut", *grid["sets"]):
        (tmp_path / folder).mkdir()
    points = read_grid(ROOT / "experiments" / "grids" / f"{name}.yaml", tmp_path).points
    names = ("learning_rate", "background_weight", "confidence_weight")
    baselines = [point for point in points if point.variant in ("gradmask", "rrr")]
    found = {(point.variant, point.options["model"]): tuple(map(point.options.get, names)) for point in baselines}
    assert all(point.options["released_gradients"] for point in baselines)
    rrr = {"vit-b": (2e-6, 1e-10, 2e-6), "augreg-s": (1e-5, 1e-8, 2e-8), "augreg-b": (5e-7, 1e-8, 2e-7)}
    rrr |= {"deit-s": (1e-5, 1e-10, 2e-6), "deit-b": (5e-6, 1e-10, 2e-6)}
    rates = {"vit-b": 2e-4, "augreg-s": 5e-4, "augreg-b": 1e-5, "deit-s": 5e-3, "deit-b": 1e-3}
    expected = {("rrr", model): values for model, values in rrr.items()}
    assert found == expected | {("gradmask", model): (rate, 50, 3e-9) for model, rate in rates.items()}
    datasets = {point.variant: Path(point.options["dataset"]).name for point in points}
    assert datasets.pop("unsupervised-masks") == "paper-split-tokencut" and {*datasets.values()} == {"paper-split"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("variants: {a: {}}\nchoose_by: loss", "one of learning_rate, mixed_rand"),
        ("variants: {a: {learning_rat: 1}}", "unknown option learning_rat; did you mean"),
        ("variants: {a: {}, b: {confidence_temperature: 1.0}}", "it has the same settings as `"),
        ("variants: {a: {}}\nsets: [imagenet-a]", "needs `imagenet/imagenet-a`"),
        (
            "variants: {a: {learning_rate: [0.1, 0.2]}}\n"
            "seeds: {0: {train_split: 'train[8:]', eval_split: 'train[:8]', test_split: validation}}",
            "learning rates are chosen on validation images, which are not measured",
        ),
    ],
)
def test_refused_before_the_first_run(text, message, inputs, tmp_path):
    shared = yaml.safe_load(write_grid(tmp_path / "shared.yaml", inputs).read_text())["options"]
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"{text}\n{yaml.safe_dump({'options': shared})}")
    assert message in sweep(grid, tmp_path / "out", by=call).error
    assert not (tmp_path / "out").exists()
