"""`robust-vit interpolate`: save mixtures of a model before and after finetuning, or measure them on in-distribution
and shifted sets."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from ..data.benchmarks import find_benchmark
from ..models.interpolation import check_alike, interpolate, warn_of_other_images, write_mixture
from ..results.plots import COLOURS, save_figure
from ..results.tables import Table, percent
from ..utils.files import write_json
from ..utils.stage import Stage
from .measurements.accuracy import Accuracy, measure_accuracy
from .options import MixtureOptions, PairOptions
from .session import Session, Side, open_session
from .sets import EvaluationSet, benchmark_sets, load_evaluation_sets


SWEEP_FILE, MIXTURES = "sweep.json", "mixtures"
SIDE = "alpha-"  # prefix of the names of sides, followed by alpha
ROLES = ("in_distribution", "shifted")  # of the sets of a sweep


def interpolate_models(options: MixtureOptions) -> str:
    """Write the mixture for one alpha, or measure mixtures for several and write `sweep.json`, `sweep.png` and
    `sweep.pdf`. All mixtures use the preprocessing of the model after finetuning. Mixtures already in the output folder
    are reused and stay in the table."""
    if options.alpha is not None:
        write_mixture(options.before, options.after, options.alpha, options.output_dir)
        return f"{options.output_dir}: {1 - options.alpha:g} · {options.before} + {options.alpha:g} · {options.after}"
    folder, pair = options.output_dir, PairOptions(model=options.before, compare=options.after)
    with open_session(pair, options.protocol) as session:
        before, after = session.sides["before"], session.sides["after"]
        check_alike(before.model, after.model)
        warn_of_other_images(before.processor, after.processor)
        sides = {"before": replace(before, processor=after.processor), "after": after}
        session = replace(session, sides=sides, folder=folder).with_sets(_load_sets(options, session))
        inputs = {
            "command": "interpolate",
            "before": before.digest,
            "after": after.digest,
            "protocol": session.protocol,
        }
        rows = {name: session.inputs("after", of) | {"shifted": of.shifted} for name, of in session.sets.items()}
        with Stage(folder, inputs | {"sets": rows}).work(session.accelerator.is_main_process):
            earlier = {float(path.name.removeprefix(SIDE)) for path in (folder / MIXTURES).glob(f"*/{SIDE}*")}
            sweep = _measure(session, sorted({*map(float, options.sweep), *earlier}), options)
            write_json(folder / SWEEP_FILE, sweep)
            save_figure(sweep_figure(sweep), folder, "sweep")
    table = sweep_table(sweep)
    return (
        f"\n{table.title}:\n\n{table.markdown()}\n\nDo not choose alpha by the accuracies that you report: "
        f"choose it on other images.\n\nsweep.json, sweep.png and sweep.pdf: {folder}"
    )


def _load_sets(options: MixtureOptions, session: Session) -> dict[str, EvaluationSet]:
    """Sets of both roles: the named ones, or those of the benchmark with the models' classes."""
    if options.shifted is None:
        benchmark = find_benchmark(session.classes)
        if benchmark is None:
            raise ValueError("No benchmark has these classes: name sets with --in_distribution and --shifted.")
        return benchmark_sets(benchmark, options.images_per_set)
    sets = {}
    for is_shifted, named in ((False, options.in_distribution), (True, options.shifted)):
        found = load_evaluation_sets(named, session.protocol, options.images_per_set)
        sets |= {name: replace(rows, shifted=is_shifted) for name, rows in found.items()}
    return sets


def _measure(session: Session, alphas: list[float], options: MixtureOptions) -> dict:
    """Contents of `sweep.json`, with alphas as numbers."""
    before, after = session.sides["before"], session.sides["after"]
    accuracy = Accuracy(options.batch_size, options.num_workers, relevance=False)
    roles = {role: [name for name, of in session.sets.items() if of.shifted == (role == "shifted")] for role in ROLES}
    measured = {}
    for alpha in alphas:
        side = f"{SIDE}{alpha!r}"
        mixed = Side.of(interpolate(before.model, after.model, alpha), after.processor)
        results = measure_accuracy(replace(session, sides={side: mixed}), accuracy, MIXTURES)
        top1 = {name: result.accuracy(side) for name, result in results.items()}
        means = {f"mean_{role}": sum(top1[name] for name in names) / len(names) for role, names in roles.items()}
        measured[alpha] = {"top1": top1, **means}
    return {"before": before.name, "after": after.name, **roles, "alphas": measured}


def sweep_table(sweep: dict) -> Table:
    """Top-1 on each set and its mean over shifted sets, in per cent, by alpha: a number, ascending in `sweep.json`."""
    names = [*sweep["in_distribution"], *sweep["shifted"]]
    rows = []
    for alpha, row in sweep["alphas"].items():
        rows.append([f"{alpha:g}", *(percent(row["top1"][name]) for name in names), percent(row["mean_shifted"])])
    return Table("Top-1, in per cent", ["alpha", *names, "mean of the shifted sets"], rows)


def sweep_figure(sweep: dict) -> Figure:
    """Plot in-distribution and shifted top-1 of a sweep, see [`sweep_table`]: over alpha, and against each other with
    points labelled by alpha, as in Figure 1 of https://huggingface.co/papers/2109.01903. Several sets are averaged."""
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
    # Axes span at least two points of accuracy, so that noise does not fill them.
    middle, half = (points.max(0) + points.min(0)) / 2, np.maximum(1, 0.7 * np.ptp(points, axis=0))
    xlim, ylim = np.stack([middle - half, middle + half], axis=1).clip(-0.4, 100.4)
    against.set(xlim=xlim, ylim=ylim, xlabel=f"top-1 {names[0]}, %", ylabel=f"top-1 {names[1]}, %")
    against.locator_params(nbins=6)
    against.set_title("numbers at the points: alpha", fontsize=9)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure
