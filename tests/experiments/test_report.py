"""`python -m experiments report`: the paper's tables, figures and findings from one file of results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from experiments.paper.check_claims import Difference, findings
from experiments.paper.paper_plots import size_figure
from experiments.paper.set_titles import TITLES
from experiments.sweeps.gain_and_price import price_figure, price_table, prices
from experiments.sweeps.results import Results
from experiments.sweeps.results_parquet import read_results, write_results
from experiments.sweeps.runs import OURS
from experiments.sweeps.seed_intervals import change
from robust_vit_hf.models.model_names import MODELS

from ..helpers.commands import files_below, succeed
from ..helpers.experiment import result_rows, sweep, write_rows
from ..helpers.layouts import miniatures
from ..helpers.timm_models import HUB_CONFIG, saved_in, tiny
from ..helpers.tiny import DATA, ROOT, masked_dataset, tiny_vit


FIXED = DATA / "experiment"


def test_the_report_of_a_fixed_file(tmp_path):
    """Equal to the committed one, and to the byte from one time to the next, figures too."""
    for name in ("a", "b"):
        succeed("experiments", "report", FIXED / "results.parquet", "--output_dir", tmp_path / name)
    files = files_below(tmp_path / "a")
    assert files == files_below(tmp_path / "b")
    assert files["report.md"].decode() == (FIXED / "report.md").read_text()
    of_sets = (f"figure_8_to_14_{name}" for name in ("imagenet-1k", "imagenet-a", "si-score-rotation"))
    figures = [f"{figure}.{kind}" for figure in ("gain_and_loss", "figure_4", *of_sets) for kind in ("png", "pdf")]
    assert files.keys() == {*figures, "report.md"}
    with Image.open(tmp_path / "a" / "figure_4.png") as picture:
        assert picture.width > 300


def test_gain_and_price_by_rate(results):
    """The chosen setting of each method, and its other rates."""
    ours = [run for run in results.runs if run.method == "robustvit" and run.model == "ViT-B"]
    chosen = [run for run in ours if run.learning_rate == 1e-6]
    stronger = [replace(run, name=f"{run.name}, stronger", tuned={"background_weight": 3.0}) for run in ours]
    found = prices([*ours, *stronger], chosen, "imagenet-a", "imagenet-1k")["robustvit"]
    assert [(point.learning_rate, bool(point.tuned), point.chosen) for point in found] == [
        (1e-6, False, True), (1e-6, True, False), (1e-5, False, False), (1e-5, True, False)
    ]  # fmt: skip
    assert found[0].gain == change(chosen, ["imagenet-a"]) and found[0].home == change(chosen, ["imagenet-1k"])
    table = price_table({"robustvit": found}, {"robustvit": "squared error"}, "INet-A", "INet val")
    assert table.rows == [["squared error", "1e-06", "2", "–", str(found[0].gain), str(found[0].home)]]
    (through_rates, _) = price_figure({"robustvit": found}, {}, "INet-A", "INet val").axes[0].lines[:2]
    expected = [[100 * point.home.mean, 100 * point.gain.mean] for point in (found[0], found[2])]
    assert through_rates.get_xydata().tolist() == expected  # without those of other weights
    uneven = Difference(0.1, 0.08, 0.17)  # as of one seed
    bars = price_figure({"": [replace(found[0], gain=uneven, home=uneven)]}, {}, "", "").axes[0].collections
    ends = sorted(np.ptp(bar.get_segments()[0], axis=0).tolist() for bar in bars)
    assert ends == [pytest.approx([0, 9]), pytest.approx([9, 0])]
    assert all(bar.get_segments()[0].max() == pytest.approx(17) for bar in bars)
    timed = [replace(ours[0], seed=str(seed), seconds=of) for seed, of in enumerate((10.0, 20.0, 90.0, None))]
    (point,) = prices(timed, timed, "imagenet-a", "imagenet-1k")["robustvit"]
    assert (point.seconds, point.seeds) == (20.0, 4)  # the median, of those that were not resumed
    models = {(run.model, run.learning_rate): run for run in results.runs if run.method == "robustvit"}
    of_models = [models["ViT-B", 1e-6], models["DeiT-B", 1e-5]]  # each model has its own rate
    found = prices(results.runs, of_models, "imagenet-a", "imagenet-1k")
    rates = {name: [point.learning_rate for point in points if point.chosen] for name, points in found.items()}
    assert rates == {"ViT-B, robustvit": [1e-6], "DeiT-B, robustvit": [1e-5]}


def test_what_a_file_of_results_keeps_of_a_set(results, tmp_path):
    """Whether its images have one class, and how many classes were ranked."""
    run = results.runs[0]
    one = run.sets["imagenet-a"]
    sides = one.sides | {"after": replace(one.sides["after"], num_ranked=2)}  # of a set, the fewer count
    changed = replace(run, sets=run.sets | {"imagenet-a": replace(one, sides=sides, by_class=False)})
    write_results(tmp_path / "r.parquet", replace(results, runs=[changed]))
    (again,) = read_results(tmp_path / "r.parquet").runs
    assert [name for name, found in again.sets.items() if not found.by_class] == ["imagenet-a"]
    assert again.sets["imagenet-a"].accuracy("after", 5) is None and again.sets["imagenet-1k"].accuracy("after", 5)
    ranks = [[of.sets[name].sides["after"].ranks.tolist() for name in run.sets] for of in (run, again)]
    assert ranks[0] == ranks[1] and {rank for of_set in ranks[0] for rank in of_set} == {*range(6)}


def test_numbers_of_samples_and_classes(results):
    """Figure 7 and its findings are of the variants of its grid."""
    variants = yaml.safe_load((ROOT / "experiments" / "grids" / "samples-and-classes.yaml").read_text())["variants"]
    ours = [run for run in results.runs if run.method == OURS and run.learning_rate == 1e-6]
    runs = []
    for variant in variants:
        changes = {"method": variant, "train_images": len(runs) + 4, "training_classes": {0, 1}}
        runs += [replace(run, name=f"{run.name}, {variant}", **changes) for run in ours]
    measured = Results(runs)
    values = [finding.value for finding in findings(measured) if finding.source == "Figure 7"]
    assert len(values) == 4 and None not in values
    (axis,) = size_figure(measured).axes
    assert len(axis.lines[0].get_xdata()) == len(variants)


def test_names_of_sets_in_a_report(tmp_path):
    """Of a file that somebody else wrote: figures lie in the folder."""
    named = {"imagenet-1k": "../$\\frac{0$ \\", "imagenet-a": "a|b\0$_{%^/.."}
    rows = [row | {"set": named.get(row["set"], row["set"])} for row in result_rows()]
    # A method on one and on two images of each class, for Figure 7.
    rows += [row | {"run": f"{row['run']}, more", "train_images": 24, "seed": f"1{row['seed']}"} for row in rows]
    path = write_rows(tmp_path / "results.parquet", rows)
    succeed("experiments", "report", path, "--output_dir", tmp_path / "in" / "out")
    assert {file.parent.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.p[nd][gf]")} == {"in/out"}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Folder of all sets of the paper, as `--imagenet` takes it, in miniature."""
    root = tmp_path_factory.mktemp("imagenet")
    for name, folder in miniatures(root / "layouts").items():
        (root / name).symlink_to(folder)
    for name in (*(f"paper-split-seed-{seed}" for seed in range(3)), "paper-split", "paper-split-tokencut"):
        for split, seed in (("train", 0), ("validation", 1)):
            rows = masked_dataset(4, seed).remove_columns("label").add_column("label", [0, 0, 1, 105])
            rows.to_parquet(root / name / f"{split}-00000.parquet")
    return root


@pytest.mark.parametrize(
    "name, models, tables",
    [
        pytest.param("draws-of-classes", ["vit-b"], (1, 2, 8, 9, 10, 11), marks=pytest.mark.slow),
        pytest.param("ablations", None, (4, 12), marks=pytest.mark.release),
        pytest.param("models-on-real-images", None, (1, 10), marks=pytest.mark.release),
    ],
)
def test_a_grid_of_the_paper_in_miniature(name, models, tables, imagenet, hub, tmp_path):
    """From sweep to report for one epoch, with the paper's figures beside those that were measured: of the grid's
    models, in miniature on the Hub, or of some of them."""
    grid = yaml.safe_load((ROOT / "experiments" / "grids" / f"{name}.yaml").read_text())
    grid["grid"]["model"] = models or grid["grid"]["model"]
    for model in grid["grid"]["model"]:
        hub.add("models", MODELS[model].hub_ids[0], _miniature(model, tmp_path / model))
    grid["options"] |= {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}
    for variant in grid["variants"].values():  # one rate of one model shows what a method needs
        if "learning_rate" in variant:
            variant |= {"learning_rate": variant["learning_rate"][0], "model": grid["grid"]["model"][:1]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    assert "runs are complete." in sweep(tmp_path / "grid.yaml", tmp_path / "out", "--imagenet", imagenet)
    succeed("experiments", "report", tmp_path / "out", "--output_dir", tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    for number in tables:
        assert f"## Table {number}: " in text
    head = next(line for line in text.splitlines() if line.startswith("| model | method"))
    assert [column for column in TITLES.values() if f" {column} " in head]
    for row in ("Original, published | – | 81.5", "Ours, published (3 seeds) | – | 80.3"):
        assert f"| ViT-B | {row}" in text


def _miniature(model: str, folder: Path) -> Path:
    """Files of a model of the paper on the Hub, with 2 layers, for images of 32 pixels."""
    seed = [*MODELS].index(model)  # results of models are kept by their weights
    if MODELS[model].hub_ids[0].startswith("timm/"):
        settings = {"num_classes": 1000, "model_args": {"num_heads": 3}}
        return saved_in(folder, tiny(seed, num_classes=1000, patch_size=8, depth=2), HUB_CONFIG | settings)
    tiny_vit(seed, num_labels=1000).save_pretrained(folder)
    return folder
