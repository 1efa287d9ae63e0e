"""`robust-vit interpolate`: save or measure models between those before and after finetuning."""

from dataclasses import replace

from ..data import emoji_shift
from ..models.interpolation import check_alike, interpolate, warn_of_other_images, write_interpolated
from ..results.plots import interpolation_figure, save_figure
from ..results.tables import Table, percent
from ..utils.files import write_json
from .accuracy import measure_accuracy
from .options import InterpolateOptions, expand_sets
from .session import Session, Side, open_session
from .sets import EvaluationSet, benchmark_sets, load_evaluation_sets


WEIGHTS_FILE = "interpolation_weights.json"
SIDE = "weight-"  # prefix of the names of sides, before the interpolation weight


def interpolate_models(options: InterpolateOptions) -> str:
    """Write the model of one interpolation weight, or measure those of several, with the processor of the second."""
    folder, weight = options.output_dir, options.weight
    if weight is not None:
        write_interpolated(options.before, options.after, weight, folder)
        return f"{folder}: {1 - weight:g} · {options.before} + {weight:g} · {options.after}"
    models = options.before, options.after, options.protocol
    with open_session(*models, folder, bf16=options.bf16, passes=options.passes) as session:
        before, after = session.sides["before"], session.sides["after"]
        check_alike(before.model, after.model)
        warn_of_other_images(before.processor, after.processor)
        sides = {"before": replace(before, processor=after.processor), "after": after}
        session = replace(session, sides=sides).with_sets(_load_sets(options, session))
        results = _measure(session, sorted({*map(float, options.weights)}))
        if session.accelerator.is_main_process:
            write_json(folder / WEIGHTS_FILE, results)
            save_figure(interpolation_figure(results), folder, WEIGHTS_FILE.removesuffix(".json"))
    table = weights_table(results)
    return (
        f"\n{table.title}:\n\n{table.markdown()}\n\nDo not choose the weight by the accuracies that you report: "
        f"choose it on other images.\n\n{WEIGHTS_FILE}, and its plot as .png and .pdf: {folder}"
    )


def _load_sets(options: InterpolateOptions, session: Session) -> dict[str, EvaluationSet]:
    if options.shifted is None:
        if not emoji_shift.has_classes(session.classes):
            raise ValueError("No benchmark has these classes: name sets with --in_distribution and --shifted.")
        return benchmark_sets(options.images_per_set)
    sets = {}
    for is_shifted, named in ((False, options.in_distribution), (True, options.shifted)):
        loaded = load_evaluation_sets(expand_sets(named or ()), session.protocol, options.images_per_set)
        sets |= {name: replace(rows, shifted=is_shifted) for name, rows in loaded.items()}
    return sets


def _measure(session: Session, weights: list[float]) -> dict:
    before, after = session.sides["before"], session.sides["after"]
    roles: dict[str, list[str]] = {"in_distribution": [], "shifted": []}
    for name, rows in session.sets.items():
        roles["shifted" if rows.shifted else "in_distribution"].append(name)
    measured = {}
    for weight in weights:
        side = f"{SIDE}{weight!r}"
        interpolated = Side.of(interpolate(before.model, after.model, weight), after.processor)
        of_weight = replace(session, sides={side: interpolated})
        results = measure_accuracy(of_weight, relevance=False)
        top1 = {name: float(result.correct(side)[result.usable].mean()) for name, result in results.items()}
        means = {f"mean_{role}": sum(top1[name] for name in names) / len(names) for role, names in roles.items()}
        measured[weight] = {"top1": top1, **means}
    return {"before": before.name, "after": after.name, **roles, "weights": measured}


def weights_table(results: dict) -> Table:
    """Top-1 on each set and its mean over shifted sets, in per cent, by ascending interpolation weight."""
    names = [*results["in_distribution"], *results["shifted"]]
    rows = []
    for weight, row in results["weights"].items():
        rows.append([f"{weight:g}", *(percent(row["top1"][name]) for name in names), percent(row["mean_shifted"])])
    return Table("Top-1, in per cent", ["interpolation weight", *names, "mean of the shifted sets"], rows)
