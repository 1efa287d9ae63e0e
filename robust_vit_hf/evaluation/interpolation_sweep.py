"""Sweep over weight interpolations of a model before and after finetuning: accuracy in distribution and shifted.

Source: https://huggingface.co/papers/2109.01903
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure

from ..data.benchmarks import find_benchmark
from ..models.digest import weights_digest
from ..models.image_processors import load_processor
from ..models.interpolation import check_alike, interpolate
from ..models.loading import load_model
from ..utils.files import write_atomically
from ..utils.publishable import public_name
from .cache import FINGERPRINT_FILE, check_fingerprint, write_fingerprint
from .evaluate_sets import evaluate_sets
from .plots import COLOURS, save_figure
from .protocols import EvaluationSet, Protocol, benchmark_sets, load_evaluation_sets
from .tables import Table, percent


SWEEP_FILE = "sweep.json"
ROLES = {"in_distribution": "in-distribution", "shifted": "shifted"}  # of the sets of a sweep, and how they are shown


def sweep_interpolations(
    before: str,
    after: str,
    alphas: Sequence[float],
    output_dir: Path,
    accelerator: Accelerator,
    *,
    named_sets: dict[str, Sequence[tuple[str, str | None]]] | None = None,
    protocol: Protocol = "paper",
    images_per_set: int = 200,
    batch_size: int = 32,
    num_workers: int = 0,
) -> str:
    """Measure mixtures of two models, and write `sweep.json`, `sweep.png` and `sweep.pdf`. All alphas see their images through
    the preprocessing of `after`. Alphas that are in `sweep.json` are not measured again.

    Args:
        before, after: as for [`load_model`].
        alphas: shares of `after`, in [0, 1].
        named_sets: by role (`in_distribution`, `shifted`) the sets, as for [`load_evaluation_sets`]; by default those of
            the benchmark that has the classes of the models.
        images_per_set: images of each set of a benchmark.

    Returns:
        The table, as Markdown.

    Raises:
        ValueError: the models do not fit, see [`check_alike`], nor the sets, or `output_dir` holds something else.
        OSError: there is no such model or set.
    """
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / FINGERPRINT_FILE).is_file():
        raise ValueError(
            f"`{output_dir}` holds something other than a sweep. Choose another --output_dir, or delete it."
        )
    start, end = load_model(before), load_model(after)
    check_alike(start, end)
    processor = load_processor(after, protocol, end)
    sets = _load_sets(named_sets, end, protocol, images_per_set)
    roles = {role: [name for name, (of_set, _) in sets.items() if of_set == role] for role in ROLES}

    # What an accuracy depends on. Names of models are left out: the same weights may lie in another folder now.
    fingerprint = {"weights_before": weights_digest(start), "weights_after": weights_digest(end), "protocol": protocol}
    fingerprint |= {"processor": json.loads(processor.to_json_string()), "sets": {}}
    for name, (role, rows) in sets.items():
        facts = {"role": role, "source": public_name(rows.source), "images": len(rows.dataset), "rows": rows.digest}
        fingerprint["sets"][name] = facts
    check_fingerprint(output_dir, fingerprint)

    sweep = {"before": public_name(before), "after": public_name(after), **roles, "alphas": {}}
    if (output_dir / SWEEP_FILE).is_file():
        known = json.loads((output_dir / SWEEP_FILE).read_text(encoding="utf-8"))["alphas"]
        sweep["alphas"] = {float(alpha): row for alpha, row in known.items()}  # JSON has no numbers as keys
    for alpha in sorted(set(alphas) - sweep["alphas"].keys()):
        results = evaluate_sets(
            interpolate(start, end, alpha).to(accelerator.device),
            {name: rows for name, (_, rows) in sets.items()},
            processor,
            accelerator,
            relevance=False,
            batch_size=batch_size,
            num_workers=num_workers,
            description=f"alpha {alpha:g}",
        )
        top1 = {name: result.scores["top1"] for name, result in results.items()}
        means = {f"mean_{role}": sum(top1[name] for name in names) / len(names) for role, names in roles.items()}
        sweep["alphas"] = dict(sorted({**sweep["alphas"], alpha: {"top1": top1, **means}}.items()))
        write_fingerprint(output_dir, fingerprint)
        write_atomically(output_dir / SWEEP_FILE, json.dumps(sweep, indent=2) + "\n")
    save_figure(sweep_figure(sweep), output_dir, "sweep")
    table = sweep_table(sweep)
    return f"{table.title}:\n\n{table.markdown()}\n"


def _load_sets(
    named_sets: dict | None, model, protocol: Protocol, images_per_set: int
) -> dict[str, tuple[str, EvaluationSet]]:
    """Role of each set, and the set, each of which fits the model."""
    if named_sets is None:
        benchmark = find_benchmark(model.config.id2label.values())
        if benchmark is None:
            raise ValueError(
                "No benchmark has the classes of these models: name their sets with --in_distribution and --shifted."
            )
        found = benchmark_sets(benchmark, images_per_set)
        sets = {name: ("shifted" if rows.shifted else "in_distribution", rows) for name, rows in found.items()}
    else:
        sets = {}
        for role, named in named_sets.items():
            found = load_evaluation_sets(named, protocol, images_per_set)
            sets |= {name: (role, rows) for name, rows in found.items()}
    for name, (_, rows) in sets.items():
        rows.check_model(name, model.config.num_labels)
    return sets


def sweep_table(sweep: dict) -> Table:
    """A row an alpha: top-1 of each set, and the mean of the shifted ones, in per cent.

    Args:
        sweep: what `sweep.json` holds, with alphas as numbers, in ascending order.
    """
    names = [*sweep["in_distribution"], *sweep["shifted"]]
    rows = [
        [f"{alpha:g}", *(percent(row["top1"][name]) for name in names), percent(row["mean_shifted"])]
        for alpha, row in sweep["alphas"].items()
    ]
    return Table("Top-1, in per cent", ["alpha", *names, "mean of the shifted sets"], rows)


def sweep_figure(sweep: dict) -> Figure:
    """Top-1 in distribution and shifted: over alpha, and against each other with the points named by alpha, as in Figure 1
    of https://huggingface.co/papers/2109.01903. Several sets are shown by their mean.

    Args:
        sweep: as for [`sweep_table`].
    """
    points = np.array([[100 * row[f"mean_{role}"] for role in ROLES] for row in sweep["alphas"].values()])
    names = [
        f"{title} ({sweep[role][0] if len(sweep[role]) == 1 else f'mean of {len(sweep[role])} sets'})"
        for role, title in ROLES.items()
    ]
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
    for axis in (over, against):
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure
