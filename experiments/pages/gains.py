"""What `improve` and its parts gain: tables and sentences of README, docs/measured.md, docs/your-photographs.md and docs/methods.md."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from robust_vit_hf.results.tables import Table

from ..sweeps.intervals import Difference, change, mean_over
from ..sweeps.results import Results
from ..sweeps.results_parquet import read_results
from .photographs import KINDS
from .text_blocks import TESTED, benchmark


PLACES = {"home": "at home", "random": "random", "new": "new"}
EXAMPLE_ROWS = ("top-1 `original`", "top-1 `mixed_rand`", "BG-Gap", "relevance on the object /")
OF_LAYERS = {  # of layer_weights.py
    "1": "of `improve --effort full`",
    "0.5": "first layer: half of the change, and more in each",
    "0": "first layer: the original's, and more of the change in each",
    "all": "all layers: three quarters of the change",
}
RULES = {
    "as `improve`": "new layer, as `improve --effort minute`",
    "map": "the map alone",
    "fit to the output": "fits to the output alone",
}
TRAININGS = {
    "background-swap": "background swap, output of the original",
    "bce": "the relevance loss, cross-entropy",
    "robustvit": "the relevance loss, squared error (weight 800)",
}
MEASURES = {  # of last_layer.py, and their heads
    "val": "`val`",
    "background_new": "`background_new`",
    "background_new, shown": "of shown classes",
    "background_new, others": "of the others",
    "background_random": "`background_random`",
}


def summary() -> Table:
    """What `improve` gains on new backgrounds, and what it costs at home, by kind of model and effort."""
    sets, rows = benchmark("improve")["sets"], []
    efforts = [effort for effort in ("minute", "full") if any(effort in runs for runs in sets.values())]
    for variant in ("", "-100"):
        for kind, names in KINDS.items():
            known = [sets[name + variant] for name in names if name + variant in sets]
            if not known:
                continue
            before = sum(100 * next(iter(runs.values()))["places"]["new"]["before"] for runs in known) / len(known)
            row, minutes = [kind + (", 100 %" if variant else ""), str(len(known)), f"{before:.1f}"], []
            for effort in efforts:
                runs = [of_set[effort] for of_set in known if effort in of_set]
                places = [run["places"] for run in runs]
                some = f" ({len(places)} of {len(known)})" if 0 < len(places) < len(known) else ""
                row += [mean_change(places, place) + some if places else "–" for place in ("new", "home")]
                minutes.append(f"{statistics.median(run['seconds'] / 60 for run in runs):.0f}" if runs else "–")
            rows.append([*row, ", ".join(minutes)])
    heads = [head for effort in efforts for head in (f"`{effort}`: new", "at home")]
    return Table("", ["model and images", "models", "new, before", *heads, "minutes"], rows)


def summary_and_verdicts() -> str:
    """The same, and how often `improve` said that it helped."""
    outcomes = Counter(run["outcome"] for runs in benchmark("improve")["sets"].values() for run in runs.values())
    return (
        f"{summary().markdown()}\n\nMinutes are medians of both efforts, beside other work. Of these {outcomes.total()} runs, `improve` called "
        f"{outcomes['helped']} helpful and {outcomes['costly']} too costly; in {outcomes['unresolved']}, the images that it keeps for its report were too few to tell the "
        "price at home. [All sets](docs/measured.md#what-improve-gains)."
    )


def full_gained(names: Sequence[str]) -> float:
    """Mean of what `full` gained beyond `minute` on new backgrounds, over sets, in points."""
    sets = [runs for name, runs in benchmark("improve")["sets"].items() if name in names and len(runs) == 2]
    gains = [runs["full"]["places"]["new"]["change"] - runs["minute"]["places"]["new"]["change"] for runs in sets]
    return 100 * sum(gains) / len(gains)


def mean_change(places: Sequence[dict], place: str) -> str:
    """Mean change over models with its interval over them, or that of one model over its images."""
    if len(places) == 1:
        return str(Difference(*(places[0][place][key] for key in ("change", "low", "high"))))
    return str(mean_over([of_model[place]["change"] for of_model in places], [*map(str, range(len(places)))]))


def all_sets() -> str:
    """Each set and effort: top-1 before and its change, and the calibration errors before and after; and how long they took."""
    rows, runs = [], [
        (name, effort, run) for name, of_set in benchmark("improve")["sets"].items() for effort, run in of_set.items()
    ]  # fmt: skip
    for name, effort, run in runs:
        places, (chosen,) = run["places"], run["chosen"] or [["–", ""]]
        cells = [f"{100 * places[place]['before']:.1f} {mean_change([places], place)}" for place in PLACES]
        calibration = [
            " → ".join(f"{100 * places[place][key]:.1f}" for key in ("ece_before", "ece_after"))
            for place in ("home", "new")
        ]
        rows.append([name, effort, *cells, *calibration, ", ".join(filter(None, chosen)), run["outcome"]])
    head = ["set", "effort", *PLACES.values(), "ECE at home", "new", "chosen, interpolation weight", "outcome"]
    falls = [run for _, _, run in runs if run["places"]["home"]["high"] < 0]
    least, most = (-100 * bound(run["places"]["home"]["change"] for run in falls) for bound in (max, min))
    costly = sum(run["outcome"] == "costly" for run in falls)
    quick, full = ([run["seconds"] / 60 for _, of, run in runs if of == effort] for effort in ("minute", "full"))
    return (
        f"{Table('', head, rows).markdown()}\n\nTop-1 at home falls in {len(falls)} of {len(runs)} runs by its whole interval, by {least:.1f} to {most:.1f} "
        f"points; {costly} of these was called costly. Beside other work, the median run of `minute` took {statistics.median(quick):.0f} minutes, and the longest "
        f"{max(quick):.0f}; of `full`, {statistics.median(full):.0f} and {max(full):.0f}. All runs took {sum(quick + full) / 60:.1f} hours."
    )


def gain_of_layers(layers: str, measure: str, beside: str = "before") -> Difference:
    """Mean difference of top-1 over the models of last_layer.json between two kinds of layers."""
    models = benchmark("last_layer")["models"]
    return mean_over([(top1[layers][measure] - top1[beside][measure]) / 100 for top1 in models.values()], [*models])


def shown_and_others() -> str:
    """Gains of a new layer for shown and other classes, in a sentence."""
    shown, others, home = (
        gain_of_layers("as `improve`", name) for name in ("background_new, shown", "background_new, others", "val")
    )
    return (
        f"Images of half of the classes help the others too, if less: a new last layer from two images of each, with true masks, gains {shown} points on new "
        f"backgrounds for these classes and {others} for the other half, at {home} at home, over {shown.seeds} DINOv2-S "
        "([how](docs/methods.md#a-new-last-layer-without-training))."
    )


def half_of_the_classes() -> str:
    """New layers beside trainings on the same images, by the classes that were shown and the others."""
    rows = []
    for name, label in RULES.items():
        gains = [gain_of_layers(name, measure) for measure in MEASURES]
        rows.append([label, str(gains[0].seeds), *map(str, gains)])
    results, shown = Results(read_results(TESTED).runs), {"": None, "shown": True, "others": False}
    for name, label in TRAININGS.items():
        parts = [measure.partition(", ") for measure in MEASURES]
        changes = [change(results.of(name), [of_set], shown=shown[classes]) for of_set, _, classes in parts]
        rows.append([label, str(changes[0].seeds), *map(str, changes)])
    return Table("", ["", "models", *MEASURES.values()], rows).markdown()


def other_layers() -> str:
    """Layers that are made otherwise than by `improve`: difference of top-1 from its layers."""
    rows, own = [], "as `improve`"
    for name in next(iter(benchmark("last_layer")["models"].values())):
        if name not in ("before", *RULES):
            gains = [str(gain_of_layers(name, measure, own)) for measure in MEASURES]
            rows.append([name.replace("1 composites", "1 composite"), *gains])
    return Table("", ["layers", *MEASURES.values()], rows).markdown()


def layer_weights() -> str:
    """Changes of top-1 by the models of `--effort full` if lower layers, or all, keep more of the original's weights."""
    sets, rows = benchmark("layer_weights")["sets"].values(), []
    for key, label in OF_LAYERS.items():
        known = [models[key] for models in sets]
        rows.append([label, str(len(known)), *(mean_change(known, place) for place in PLACES)])
    return Table("", ["weights", "models", *PLACES.values()], rows).markdown()


def example_diagnosis() -> str:
    """The verdict of `diagnose` on the example of docs/your-photographs.md."""
    return f"> {benchmark('example')['diagnosis']}"


def example_improvement() -> str:
    """The verdict of `improve` on the example, four rows of its table, and calibration."""
    improved = benchmark("example")["improve"]
    table, sentence = improved["table"], improved["verdict"].splitlines()[0]
    rows = [row for row in table["rows"] if row[0].startswith(EXAMPLE_ROWS)]
    return (
        f"> {sentence}\n\n{Table('', table['head'], rows).markdown()}\n\n"
        f"The expected calibration error on the images as they are {calibration(improved['report'])}: the layer includes a temperature fitted on "
        "the selection images."
    )


def example_elsewhere() -> str:
    """What `improve` gains on other images of the example, in a sentence."""
    row = benchmark("example")["elsewhere"]
    before, after = row["top1_before"], row["top1_after"]
    return (
        f"On {row['num_images']} other images, on four background photographs that nothing was trained on, top-1 rises from {100 * before:.1f} to "
        f"{100 * after:.1f} %, by {Difference(after - before, row['change_low'], row['change_high'])}, and the calibration error "
        f"{calibration(row)}."
    )


def calibration(row: dict) -> str:
    """How the expected calibration error changes, by a row of results."""
    return f"changes from {100 * row['ece_before']:.1f} to {100 * row['ece_after']:.1f} %"


def swaps() -> str:
    """Changes by the plain swap, and by variants of it minus these."""
    variants = {(row["variant"], row["learning rate"]): row for row in benchmark("stronger_swap")}
    columns = [(measure, rate) for measure in ("mixed_rand", "original") for rate in (1e-6, 2.5e-6)]
    rows = [["as it is, from before", *(variants["as it is", rate][measure] for measure, rate in columns)]]
    for name in dict.fromkeys(name for name, _ in variants if name != "as it is"):
        rows.append([name, *(variants[name, rate][f"{measure}, to as it is"] for measure, rate in columns)])
    return Table("", ["", *(f"`{measure}`, {rate:.2g}" for measure, rate in columns)], rows).markdown()


BLOCKS: dict[str, Callable[[], str]] = {
    "what improve gains": summary_and_verdicts,
    "shown and others": shown_and_others,
    "all sets": all_sets,
    "half of the classes": half_of_the_classes,
    "other layers": other_layers,
    "layer weights": layer_weights,
    "example diagnosis": example_diagnosis,
    "example improvement": example_improvement,
    "example elsewhere": example_elsewhere,
    "swaps": swaps,
}
