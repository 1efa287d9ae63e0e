"""Write the tables of the results beside this script into README and docs.

    python benchmarks/write.py

A block of text between `table: NAME` and `end of table` is made again; a test compares all blocks with the files.
"""

import json
import math
import re
import runpy
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.sweeps.results import Results
from experiments.sweeps.results_parquet import read_results
from robust_vit_hf.diagnosis import verdict
from robust_vit_hf.results.intervals import Difference, Gains, Interval, change, mean_gain, mean_over
from robust_vit_hf.results.tables import Table
from robust_vit_hf.utils.files import read_json


HERE = Path(__file__).parent
ROOT = HERE.parent
TEST_IMAGES = 300  # of a set of benchmarks/improve.py
TEXTS = (
    "README.md",
    "docs/measured.md",
    "docs/your-photographs.md",
    "docs/methods.md",
    "docs/masks.md",
    "docs/sis.md",
    "docs/performance.md",
    "docs/reliability.md",
    "docs/experiment/README.md",
    "docs/experiment/checks.md",
)
BLOCK = re.compile(r"(<!-- table: ([a-z ]+) -->\n).*?(<!-- end of table)", re.DOTALL)
# Models of docs/experiment
FRESH = tuple(f"fresh-{seed}" for seed in range(10, 15))
# Sets of benchmarks/improve.py and other_images.py with models of one kind.
KINDS = {
    "DINOv2-S, emoji on photographs": ("example", "emoji-1", "emoji-3", "emoji-4", "emoji-5", *FRESH),
    "EfficientNet-Lite0, emoji on photographs": ("cnn-0", "cnn-1", "cnn-2"),
    "DINOv2-S, digits on textures": ("digits",),
}
PLACES = {"home": "at home", "random": "random", "new": "new"}
WAYS = ("plain", "lit", "occluded", "scaled")  # of benchmarks/other_images.py, and the models that it compares
AFTER = {
    "minute": "`improve`",
    "full": "`improve --effort full`",
    "background-swap": "swap, 72 steps",
    "robustvit": "squared error, 72 steps",
    "layer": "last layer, fitted to the output",
    "lp-ft": "swap from this layer, 72 steps",
}
EXAMPLE_ROWS = ("top-1 `original`", "top-1 `mixed_rand`", "BG-Gap", "relevance on the object /")
SHARES = {  # of benchmarks/layer_shares.py
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
METHODS = {
    "background-swap": "background swap, output of the original",
    "bce": "the relevance loss, cross-entropy",
    "robustvit": "the relevance loss, squared error (weight 800)",
}
MEASURES = {  # of benchmarks/last_layer.py, and their heads
    "val": "`val`",
    "background_new": "`background_new`",
    "background_new, shown": "of shown classes",
    "background_new, others": "of the others",
    "background_random": "`background_random`",
}


def summary() -> Table:
    """What `improve` gains on new backgrounds, and what it costs at home, by kind of model and effort."""
    sets, rows = read_json(HERE / "improve.json")["sets"], []
    efforts = [effort for effort in ("minute", "full") if any(effort in found for found in sets.values())]
    for variant in ("", "-100"):
        for kind, names in KINDS.items():
            known = [sets[name + variant] for name in names if name + variant in sets]
            if not known:
                continue
            before = sum(100 * next(iter(found.values()))["places"]["new"]["before"] for found in known) / len(known)
            row, took = [kind + (", 100 %" if variant else ""), str(len(known)), f"{before:.1f}"], []
            for effort in efforts:
                runs = [found[effort] for found in known if effort in found]
                of_effort = [run["places"] for run in runs]
                some = f" ({len(of_effort)} of {len(known)})" if 0 < len(of_effort) < len(known) else ""
                row += [mean_change(of_effort, place) + some if of_effort else "–" for place in ("new", "home")]
                took.append(f"{statistics.median(run['seconds'] / 60 for run in runs):.0f}" if runs else "–")
            rows.append([*row, ", ".join(took)])
    heads = [head for effort in efforts for head in (f"`{effort}`: new", "at home")]
    return Table("", ["model and images", "models", "new, before", *heads, "minutes"], rows)


def summary_and_verdicts() -> str:
    """The same, and how often `improve` said that it helped."""
    outcomes = Counter(
        run["outcome"] for of_set in read_json(HERE / "improve.json")["sets"].values() for run in of_set.values()
    )
    return (
        f"{summary().markdown()}\n\nMinutes are medians of both efforts, beside other work. Of these {outcomes.total()} runs, `improve` called "
        f"{outcomes['helped']} helpful and {outcomes['costly']} too costly; in {outcomes['unresolved']}, the images that it keeps for its report were too few to tell the "
        "price at home. [All sets](docs/measured.md#what-improve-gains)."
    )


def minutes() -> list[list[float]]:
    """Times of all runs of `minute` and of `full`."""
    sets = read_json(HERE / "improve.json")["sets"].values()
    return [[found[effort]["seconds"] / 60 for found in sets if effort in found] for effort in ("minute", "full")]


def full_gained(names: Sequence[str]) -> float:
    """Mean of what `full` gained beyond `minute` on new backgrounds, over sets, in points."""
    sets = [
        found for name, found in read_json(HERE / "improve.json")["sets"].items() if name in names and len(found) == 2
    ]
    gains = [found["full"]["places"]["new"]["change"] - found["minute"]["places"]["new"]["change"] for found in sets]
    return 100 * sum(gains) / len(gains)


def gain_of_layers(layers: str, measure: str, beside: str = "before") -> Difference:
    """Mean difference of top-1 over the models of benchmarks/last_layer.json between two kinds of layers."""
    found = read_json(HERE / "last_layer.json")["models"]
    return mean_over([(of[layers][measure] - of[beside][measure]) / 100 for of in found.values()], [*found])


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


def mean_change(places: Sequence[dict], place: str) -> str:
    """Mean change over models with its interval over them, or that of one model over its images."""
    if len(places) == 1:
        return str(Difference(*(places[0][place][key] for key in ("change", "low", "high"))))
    return str(mean_over([found[place]["change"] for found in places], [*map(str, range(len(places)))]))


def all_sets() -> str:
    """Each set and effort: top-1 before and its change, and the calibration errors before and after; and how long they took."""
    sets, rows = read_json(HERE / "improve.json")["sets"], []
    for name, efforts in sets.items():
        for effort, found in efforts.items():
            places, (chosen,) = found["places"], found["chosen"] or [["–", ""]]
            cells = [f"{100 * places[place]['before']:.1f} {mean_change([places], place)}" for place in PLACES]
            calibration = [
                " → ".join(f"{100 * places[place][key]:.1f}" for key in ("ece_before", "ece_after"))
                for place in ("home", "new")
            ]
            rows.append([name, effort, *cells, *calibration, ", ".join(filter(None, chosen)), found["outcome"]])
    head = ["set", "effort", *PLACES.values(), "ECE at home", "new", "chosen, share", "outcome"]
    quick, full = minutes()
    runs = [run for of_set in sets.values() for run in of_set.values()]
    falls = [run for run in runs if run["places"]["home"]["high"] < 0]
    least, most = (-100 * bound(run["places"]["home"]["change"] for run in falls) for bound in (max, min))
    costly = sum(run["outcome"] == "costly" for run in falls)
    return (
        f"{Table('', head, rows).markdown()}\n\nTop-1 at home falls in {len(falls)} of {len(runs)} runs by its whole interval, by {least:.1f} to {most:.1f} "
        f"points; {costly} of these was called costly. Beside other work, the median run of `minute` took {statistics.median(quick):.0f} minutes, and the longest "
        f"{max(quick):.0f}; of `full`, {statistics.median(full):.0f} and {max(full):.0f}. All runs took {sum(quick + full) / 60:.1f} hours."
    )


def foretold() -> str:
    """`mixed_rand` of the report images, which foretells top-1 on random backgrounds, beside it, before and after, and how often top-1
    lies in the interval that the report gives for it."""
    rows, differences, held = [], [], 0
    for name, efforts in read_json(HERE / "improve.json")["sets"].items():
        first = next(iter(efforts))
        sides = [(first, "before", "before"), *((effort, "after", f"after `{effort}`") for effort in efforts)]
        for effort, side, label in sides:
            found = efforts[effort]
            mixed = Interval(*(found["mixed_rand"][side][key] for key in ("mean", "low", "high")))
            top1 = found["places"]["random"][side]
            differences.append(beside_random(mixed.mean, (mixed.high - mixed.low) / 2 / 1.96, top1))
            held += verdict.foretold(mixed).low <= top1 <= verdict.foretold(mixed).high
            rows.append([name, label, str(mixed), f"{100 * top1:.1f}", str(differences[-1])])
    least, most = (100 * bound(one.mean for one in differences) for bound in (min, max))
    table = Table("", ["set", "model", "`mixed_rand`", "random backgrounds", "difference"], rows).markdown()
    return (
        f"{table}\n\nDifferences range from {least:+.1f} to {most:+.1f} points. Their standard deviation is {beyond(differences):.1f} points beyond what "
        f"the samples explain. Top-1 on random backgrounds lies in the report's interval for {held} of these {len(rows)} models, from which its width was "
        "made."
    )


def foretold_by_masks() -> str:
    """The same with true masks and with those that `improve` made, on the same images."""
    results, measured = (read_json(HERE / f"{name}.json")["sets"] for name in ("improve", "foretelling"))
    rows = []
    differences: dict[str, list[Difference]] = {"made": [], "true": []}
    for name, efforts in measured.items():
        first = next(iter(efforts))
        for effort, side in [(first, "before"), *((effort, "after") for effort in efforts)]:
            if side in efforts[effort]:
                top1 = results[name][effort]["places"]["random"][side]
                for kind, of_kind in differences.items():
                    of_kind.append(beside_random(*efforts[effort][side][kind].values(), top1))
                label = side if side == "before" else f"after `{effort}`"
                rows.append(
                    [name, label, f"{100 * top1:.1f}", *(str(of_kind[-1]) for of_kind in differences.values())]
                )
    table = Table("", ["set", "model", "random backgrounds", "made masks", "true masks"], rows).markdown()
    within = {kind: sum(abs(one.mean) <= 0.03 for one in of_kind) for kind, of_kind in differences.items()}
    by_chance = sum(math.erf(0.03 * 1.96 * 2 / (one.high - one.low) / math.sqrt(2)) for one in differences["made"])
    return (
        f"{table}\n\nBeyond what the samples explain, the standard deviation is {beyond(differences['made']):.1f} points with made masks and "
        f"{beyond(differences['true']):.1f} with true ones. Within 3 points are {within['made']} and {within['true']} of {len(rows)} models; if only the "
        f"samples differed, {by_chance:.0f} would be. "
        f"Not in the table: {', '.join(name for name in results if name not in measured)}."
    )


def beside_random(mixed: float, error: float, top1: float) -> Difference:
    """`mixed_rand` less top-1 on random backgrounds, with the interval of both samples."""
    margin = 1.96 * math.hypot(error, math.sqrt(top1 * (1 - top1) / TEST_IMAGES))
    return Difference(mixed - top1, mixed - top1 - margin, mixed - top1 + margin)


def beyond(differences: Sequence[Difference]) -> float:
    """Standard deviation beyond what the samples explain, in points: the square root of the mean of difference² − its variance, at
    least 0."""
    left = [one.mean**2 - ((one.high - one.low) / 2 / 1.96) ** 2 for one in differences]
    return 100 * math.sqrt(max(0, sum(left) / len(left)))


def half_of_the_classes() -> Table:
    """New layers beside trainings on the same images, by the classes that were shown and the others."""
    rows = []
    for name, label in RULES.items():
        gains = [gain_of_layers(name, measure) for measure in MEASURES]
        rows.append([label, str(gains[0].seeds), *map(str, gains)])
    tested = Results(read_results(ROOT / "docs" / "experiment" / "results.parquet").runs)
    for name, label in METHODS.items():
        parts = [of.partition(", ") for of in MEASURES]
        shown = {"": None, "shown": True, "others": False}
        changes = [change(tested.of(name), [one], shown=shown[classes]) for one, _, classes in parts]
        rows.append([label, str(changes[0].seeds), *map(str, changes)])
    return Table("", ["", "models", *MEASURES.values()], rows)


def variants() -> str:
    """Layers that are made otherwise than by `improve`: difference of top-1 from its layers."""
    rows, own = [], "as `improve`"
    for name in next(iter(read_json(HERE / "last_layer.json")["models"].values())):
        if name not in ("before", *RULES):
            gains = [str(gain_of_layers(name, measure, own)) for measure in MEASURES]
            rows.append([name.replace("1 composites", "1 composite"), *gains])
    return Table("", ["layers", *MEASURES.values()], rows).markdown()


def layer_shares() -> Table:
    """Changes of top-1 by the models of `--effort full` if lower layers, or all, keep more of the original's weights."""
    sets, rows = read_json(HERE / "layer_shares.json")["sets"].values(), []
    for share, label in SHARES.items():
        known = [found[share] for found in sets]
        rows.append([label, str(len(known)), *(mean_change(known, place) for place in PLACES)])
    return Table("", ["weights", "models", *PLACES.values()], rows)


def other_images() -> str:
    """Top-1 before and its change by how objects are pasted on other photographs."""
    rows = []
    for kind, made, gains in by_pasting():
        cells = [f"{100 * before.mean():.1f} {over_both(gain)}" for before, gain in gains.values()]
        rows.append([kind, made, str(len(gains["plain"][1])), *cells])
    table = Table("", ["model", "after", "models", *(f"`{way}`" for way in WAYS)], rows).markdown()
    pairs = [("robustvit", "background-swap"), ("background-swap", "layer"), ("layer", "lp-ft")]
    more = [[AFTER[of], AFTER[one], *(str(difference(one, of, way)) for way in WAYS)] for one, of in pairs]
    beside = Table("", ["gain of", "less that of", *(f"`{way}`" for way in WAYS)], more).markdown()
    return f"{table}\n\nDifferences between them, in points:\n\n{beside}"


def other_ways() -> Table:
    """Changes of top-1 by another way of pasting, less those by `plain`."""
    rows = []
    for kind, made, gains in by_pasting():
        less = [over_both(gain - gains["plain"][1]) for way, (_, gain) in gains.items() if way != "plain"]
        rows.append([kind, made, *map(str, less)])
    return Table("", ["model", "after", *(f"`{way}`" for way in WAYS[1:])], rows)


def by_pasting() -> Iterator[tuple[str, str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Kind of models, what made them better, and by way top-1 before and its gain, `(models, photographs)`."""
    results = read_json(HERE / "other_images.json")
    for kind, names in KINDS.items():
        for made, label in AFTER.items():
            known = [results["sets"][name][made] for name in names if made in results["sets"].get(name, {})]
            if known:
                gains = {way: of_photographs(known, way, results["objects"]) for way in WAYS}
                yield kind.partition(",")[0], label, gains


def difference(one: str, other: str, way: str) -> Difference:
    """The gain of the second method on these images less that of the first."""
    results = read_json(HERE / "other_images.json")
    known = [of for of in results["sets"].values() if of.keys() >= {one, other}]
    first, second = (
        of_photographs([of[method] for of in known], way, results["objects"])[1] for method in (one, other)
    )
    return over_both(second - first)


def of_photographs(known: Sequence[dict], way: str, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 before and its gain, `(models, photographs)`."""
    before, after = (np.array([one[way][side] for one in known]) / objects for side in ("before", "after"))
    return before, after - before


def over_both(gains: np.ndarray) -> Difference:
    """Mean of `(models, photographs)` with its interval over both; of one model, over photographs."""
    photographs = np.arange(gains.shape[1])
    return mean_gain({"all": [Gains(values, str(model), photographs) for model, values in enumerate(gains)]})


def shortcuts() -> str:
    """Counts of the attributes that were named, by the attribute that was planted."""
    from shortcuts import matrix, summary  # beside this script; needs what trains its models

    results = read_json(HERE / "shortcuts.json")["models"]
    return f"{matrix(results).markdown()}\n\n{summary(results)}"


def attributes_named() -> str:
    """How often what was planted is named, over all models."""
    from shortcuts import all_counts

    return all_counts(read_json(HERE / "shortcuts.json")["models"])


def verdict_of_a_frame() -> str:
    """What `diagnose` says of the model of `shortcuts.py --planted border --rates 0.95 --export`."""
    return "> " + read_json(HERE / "shortcuts.json")["models"]["emoji/border/0.95/3"]["sentence"]


def mended() -> str:
    """What `improve` gains with the attributes that were named."""
    from shortcuts import mended_table

    return mended_table(read_json(HERE / "shortcuts.json")["models"]).markdown()


def example_diagnosis() -> str:
    """The verdict of `diagnose` on the example of docs/your-photographs.md."""
    return f"> {read_json(HERE / 'example.json')['diagnosis']}"


def example_improvement() -> str:
    """The verdict of `improve` on the example, four rows of its table, and calibration."""
    found = read_json(HERE / "example.json")["improve"]
    table, sentence = found["table"], found["verdict"].splitlines()[0]
    rows = [row for row in table["rows"] if row[0].startswith(EXAMPLE_ROWS)]
    return (
        f"> {sentence}\n\n{Table('', table['head'], rows).markdown()}\n\n"
        f"The expected calibration error on the images as they are {calibration(found['report'])}: the layer includes a temperature fitted on "
        "the selection images."
    )


def example_elsewhere() -> str:
    """What `improve` gains on other images of the example, in a sentence."""
    found = read_json(HERE / "example.json")["elsewhere"]
    before, after = found["top1_before"], found["top1_after"]
    return (
        f"On {found['num_images']} other images, on four background photographs that nothing was trained on, top-1 rises from {100 * before:.1f} to "
        f"{100 * after:.1f} %, by {Difference(after - before, found['change_low'], found['change_high'])}, and the calibration error "
        f"{calibration(found)}."
    )


def calibration(row: dict) -> str:
    """How the expected calibration error changes, by a row of results."""
    return f"changes from {100 * row['ece_before']:.1f} to {100 * row['ece_after']:.1f} %"


def swaps() -> str:
    """Changes by the plain swap, and by variants of it minus these."""
    found = {(of["variant"], of["learning rate"]): of for of in json.loads((HERE / "stronger_swap.json").read_text())}
    columns = [(measure, rate) for measure in ("mixed_rand", "original") for rate in (1e-6, 2.5e-6)]
    rows = [["as it is, from before", *(found["as it is", rate][measure] for measure, rate in columns)]]
    for name in dict.fromkeys(name for name, _ in found if name != "as it is"):
        rows.append([name, *(found[name, rate][f"{measure}, to as it is"] for measure, rate in columns)])
    return Table("", ["", *(f"`{measure}`, {rate:.2g}" for measure, rate in columns)], rows).markdown()


BLOCKS: dict[str, Callable[[], str]] = {
    "example diagnosis": example_diagnosis,
    "example improvement": example_improvement,
    "example elsewhere": example_elsewhere,
    "shortcuts": shortcuts,
    "mended": mended,
    "attributes named": attributes_named,
    "verdict of a frame": verdict_of_a_frame,
    "what improve gains": summary_and_verdicts,
    "shown and others": shown_and_others,
    "all sets": all_sets,
    "foretold": foretold,
    "foretold by masks": foretold_by_masks,
    "half of the classes": lambda: half_of_the_classes().markdown(),
    "other layers": variants,
    "layer shares": lambda: layer_shares().markdown(),
    "other images": other_images,
    "other ways": lambda: other_ways().markdown(),
    "swaps": swaps,
    **runpy.run_path(str(HERE / "other_tables.py"))["BLOCKS"],
}


def text(path: str) -> str:
    """A text with its blocks made again."""
    made = (ROOT / path).read_text()
    return BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}\n{found[3]}", made)


if __name__ == "__main__":
    for path in TEXTS:
        (ROOT / path).write_text(text(path))
