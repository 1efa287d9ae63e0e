"""Sweep over weight interpolations of a model before and after finetuning: accuracy in distribution and shifted.

Source: https://huggingface.co/papers/2109.01903
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure

from ..data.benchmarks import IMAGES_PER_SET, find_benchmark
from ..class_names.label_mapping import classes_of_model
from ..models.digest import weights_digest
from ..models.preprocessing import load_processor
from ..models.interpolation import check_alike, interpolate
from ..models.loading import load_model
from ..utils.files import read_json, write_json
from ..utils.publishable import public_name
from .cache import FINGERPRINT_FILE, check_fingerprint, write_fingerprint
from .evaluate_sets import evaluate_sets
from .plots import COLOURS, save_figure
from .protocols import Protocol, benchmark_sets, load_evaluation_sets
from .tables import Table, percent


SWEEP_FILE = "sweep.json"
ROLES = ("in_distribution", "shifted")  # of the sets of a sweep


def sweep_interpolations(
    before: str,
    after: str,
    alphas: Sequence[float],
    output_dir: Path,
    accelerator: Accelerator,
    *,
    in_distribution: Sequence[tuple[str, str | None]] | None = None,
    shifted: Sequence[tuple[str, str | None]] | None = None,
    protocol: Protocol = "paper",
    images_per_set: int = IMAGES_PER_SET,
    batch_size: int = 32,
    num_workers: int = 0,
) -> str:
    """Measure mixtures of two models, and write `sweep.json`, `sweep.png` and `sweep.pdf`. All alphas see their images through
    the preprocessing of `after`. Alphas that are in `sweep.json` are not measured again.

    Args:
        before, after: as for [`load_model`].
        alphas: shares of `after`, in [0, 1].
        in_distribution, shifted: sets as for [`load_evaluation_sets`], both or neither; by default those of the benchmark
            with the classes of the models.
        images_per_set: images of each set of a benchmark.

    Returns:
        The table, as Markdown.

    Raises:
        ValueError: the models do not fit each other, see [`check_alike`], or the sets, or `output_dir` holds other files.
        OSError: there is no such model or set.
    """
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / FINGERPRINT_FILE).is_file():
        raise ValueError(
            f"`{output_dir}` holds something other than a sweep. Choose another --output_dir, or delete it."
        )
    start, end = load_model(before), load_model(after)
    check_alike(start, end)
    processor = load_processor(after, protocol, end)
    if shifted is not None:
        sets = {}
        for is_shifted, named in ((False, in_distribution), (True, shifted)):
            found = load_evaluation_sets(named, protocol, images_per_set)
            sets |= {name: replace(rows, shifted=is_shifted) for name, rows in found.items()}
    elif benchmark := find_benchmark(classes_of_model(end.config)):
        sets = benchmark_sets(benchmark, images_per_set)
    else:
        raise ValueError(
            "No benchmark has the classes of these models: name their sets with --in_distribution and --shifted."
        )
    roles = {role: [name for name, rows in sets.items() if rows.shifted == (role == "shifted")] for role in ROLES}

    # The inputs of an accuracy. Names of models are left out: the same weights may lie in another folder now.
    fingerprint: dict = {
        "weights_before": weights_digest(start),
        "weights_after": weights_digest(end),
        "protocol": protocol,
    }
    fingerprint |= {"processor": json.loads(processor.to_json_string()), "sets": {}}
    sets = {name: rows.for_model(name, end.config) for name, rows in sets.items()}
    for name, rows in sets.items():
        facts = {"role": "shifted" if rows.shifted else "in_distribution", "source": public_name(rows.source)}
        fingerprint["sets"][name] = facts | {"images": len(rows.dataset), "rows": rows.digest}
    check_fingerprint(output_dir, fingerprint)

    known = (read_json(output_dir / SWEEP_FILE) or {"alphas": {}})["alphas"]
    measured = {float(alpha): row for alpha, row in known.items()}  # JSON has no numbers as keys
    sweep = {"before": public_name(before), "after": public_name(after), **roles, "alphas": measured}
    for alpha in sorted(set(alphas) - measured.keys()):
        results = evaluate_sets(
            interpolate(start, end, alpha).to(accelerator.device),
            sets,
            processor,
            accelerator,
            relevance=False,
            batch_size=batch_size,
            num_workers=num_workers,
            description=f"alpha {alpha:g}",
        )
        top1 = {name: result.scores["top1"] for name, result in results.items()}
        means = {f"mean_{role}": sum(top1[name] for name in names) / len(names) for role, names in roles.items()}
        measured[alpha] = {"top1": top1, **means}
        sweep["alphas"] = dict(sorted(measured.items()))
        write_fingerprint(output_dir, fingerprint)
        write_json(output_dir / SWEEP_FILE, sweep)
    save_figure(sweep_figure(sweep), output_dir, "sweep")
    table = sweep_table(sweep)
    return f"{table.title}:\n\n{table.markdown()}\n"


def sweep_table(sweep: dict) -> Table:
    """Top-1 of each set, and the mean of the shifted ones, in per cent, with a row for each alpha.

    Args:
        sweep: contents of `sweep.json`, with alphas as numbers, in ascending order.
    """
    names = [*sweep["in_distribution"], *sweep["shifted"]]
    rows = [
        [f"{alpha:g}", *(percent(row["top1"][name]) for name in names), percent(row["mean_shifted"])]
        for alpha, row in sweep["alphas"].items()
    ]
    return Table("Top-1, in per cent", ["alpha", *names, "mean of the shifted sets"], rows)


def sweep_figure(sweep: dict) -> Figure:
    """Top-1 in distribution and shifted of a sweep, as for [`sweep_table`]: over alpha, and against each other with the points
    named by alpha, as in Figure 1 of https://huggingface.co/papers/2109.01903. Several sets are shown by their mean."""
    points = np.array([[100 * row[f"mean_{role}"] for role in ROLES] for row in sweep["alphas"].values()])
    shown = {role: sweep[role][0] if len(sweep[role]) == 1 else f"mean of {len(sweep[role])} sets" for role in ROLES}
    names = [f"{role.replace('_', '-')} ({text})" for role, text in shown.items()]
    figure = Figure((9.0, 3.8), layout="constrained")
    over, against = figure.subplots(1, 2)
    for name, values, colour in zip(names, points.T, (COLOURS["control"], COLOURS["after"]), strict=True):
        over.plot(list(sweep["alphas"]), values, marker="o", markersize=4, label=name, color=colour)
    over.set(xlabel="alpha (0: before, 1: after)", ylabel="top-1, %")
    against.plot(*points.T, marker="o", markersize=4, color=COLOURS["before"])
    # Equal points share a label.
    labels: dict[tuple[float, float], list[str]] = {}
    for alpha, point in zip(sweep["alphas"], points, strict=True):
        labels.setdefault(tuple(point), []).append(f"{alpha:g}")
    for point, shared in labels.items():
        against.annotate(", ".join(shared), point, textcoords="offset points", xytext=(5, 4), fontsize=8)
    # Two points of accuracy at least, so that noise does not fill an axis.
    middle, half = (points.max(0) + points.min(0)) / 2, np.maximum(1, 0.7 * np.ptp(points, axis=0))
    xlim, ylim = np.stack([middle - half, middle + half], axis=1).clip(-0.4, 100.4)
    against.set(xlim=xlim, ylim=ylim, xlabel=f"top-1 {names[0]}, %", ylabel=f"top-1 {names[1]}, %")
    against.locator_params(nbins=6)
    against.set_title("numbers at the points: alpha", fontsize=9)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure
