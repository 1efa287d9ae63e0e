"""What `improve` and its parts gain: tables and sentences of README, docs/improve.md and pages of experiments."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from robust_vit_hf.improvement.choice import COMPOSITES_ERROR
from robust_vit_hf.results.intervals import NORMAL, Interval
from robust_vit_hf.results.tables import Table

from ..sweeps.results import Results
from ..sweeps.results_parquet import read_results
from ..sweeps.seed_intervals import Difference, Gains, change, mean_gain, mean_over
from .text_blocks import TESTED, benchmark, by_group, commits_of, text


MODEL_KINDS = {
    "vit": "DINOv2-S",
    "cnn": "EfficientNet-Lite0",
    "photo": "DINOv2-S, real objects",
    "photo-cnn": "EfficientNet-Lite0, real objects",
}
EFFORTS = ("quick", "full")
ARMS = {"quick": "`improve`", "full": "`improve --effort full`"}
OTHER_ARMS = {
    "labels": "labels without composites",
    "swap": "the training of `full` alone",
    "squared": "the relevance loss, weight 800",
    "paper": "the relevance loss, weight 0.8 (the paper's)",
}
PLACES = {
    "scenes": "scenes",
    "both": "both",
    "home": "usual",
    "random": "random",
    "vendor": "vendor",
    "vendor_random": "vendor, random",
}  # and in the table
PLACES_IN_SHORT = {
    "scenes": "other backgrounds",
    "both": "other backgrounds, new drawings",
    "home": "usual backgrounds",
    "vendor": "usual backgrounds, new drawings",
}
FEW_PHOTOGRAPHS = 20
RULES = {
    "as `improve`": "new layer, chosen among maps and fits",
    "map": "chosen among maps only",
    "fit to the output": "chosen among fits to the output only",
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


@cache
def improve_sets() -> dict[str, dict[str, dict]]:
    """Runs of improve.parquet by set and arm, each with the groups of its images."""
    return by_group("improve")


def improve_runs(arm: str, kind: str) -> dict[str, dict]:
    """Runs of an arm on the sets of a kind, by set."""
    return {
        name: runs[arm] for name, runs in improve_sets().items() if name.rpartition("-")[0] == kind and arm in runs
    }


def effort_runs() -> dict[tuple[str, str], dict]:
    """Runs of `improve` by set and effort."""
    return {
        (name, arm): run for name, of_set in improve_sets().items() for arm, run in of_set.items() if arm in EFFORTS
    }


def gain_at(runs: Mapping[str, dict], place: str) -> Difference:
    """Mean change of top-1 at a place, with its interval over models, photographs and classes; over models and
    classes, if there are few photographs; of one model, over photographs or images."""
    gains = []
    for name, run in runs.items():
        before, after = (np.array([*run["places"][place][side]], dtype=int) for side in ("before", "after"))
        groups = np.array([run["groups"][place][of].split() for of in ("background", "class")], dtype=int)
        gain, is_few = after - before, groups[0].max() < FEW_PHOTOGRAPHS
        if len(runs) > 1:
            gains.append(Gains(gain, name, groups[1] if is_few else groups, place))
        else:
            means = gain if is_few else np.bincount(groups[0], gain) / np.bincount(groups[0])
            gains.append(Gains(means, name, np.arange(len(means)), place))
    return mean_gain({place: gains})


def top1(run: dict, place: str, side: str = "before") -> float:
    outcomes = run["places"][place][side]
    return outcomes.count("1") / len(outcomes)


def top1_before(runs: Mapping[str, dict], place: str) -> float:
    """Mean over models, in per cent."""
    return 100 * statistics.mean(top1(run, place) for run in runs.values())


def summary() -> Table:
    """What each arm gains on other photographs, with known and with new drawings, and what it costs on usual
    backgrounds."""
    rows = []
    for kind, label in MODEL_KINDS.items():
        for arm, name in (ARMS | OTHER_ARMS).items():
            if runs := improve_runs(arm, kind):
                places = next(iter(runs.values()))["places"]
                changes = [str(gain_at(runs, place)) if place in places else "–" for place in PLACES_IN_SHORT]
                rows.append([f"{label}, {name}", str(len(runs)), f"{top1_before(runs, 'scenes'):.1f}", *changes])
    head = ["model", "models", "other backgrounds, before", *(f"change: {name}" for name in PLACES_IN_SHORT.values())]
    return Table("", head, rows)


def in_short() -> str:
    """Top-1 before and after in whole per cent, how exact the changes are, and how often the verdict was right."""
    rows, margins = [], []
    for kind, label in MODEL_KINDS.items():
        of_efforts = [improve_runs(arm, kind) for arm in EFFORTS]
        rows.append([f"{len(of_efforts[0])} {label}"])
        for place in PLACES_IN_SHORT:
            if place not in next(iter(of_efforts[0].values()))["places"]:
                rows[-1].append("–")
                continue
            gains, before = [gain_at(runs, place) for runs in of_efforts], top1_before(of_efforts[0], place)
            rows[-1].append(" → ".join(f"{100 * mean + before:.0f}" for mean in (0, *(gain.mean for gain in gains))))
            margins += [50 * (gain.high - gain.low) for gain in gains]
    table = Table("", ["models", *PLACES_IN_SHORT.values()], rows).markdown()
    return text("what-improve-gains", table=table, margin=math.ceil(max(margins)), control=control(), **verdicts())


def control() -> str:
    """Sentences on the primary comparison, of `full` with a training on labels without composites, for each kind of
    models."""
    parts = []
    for kind, label in MODEL_KINDS.items():
        alone, full = (improve_runs(arm, kind) for arm in ("labels", "full"))
        if not alone:
            continue
        pairs = {}
        for name, run in alone.items():
            before, after = (of["places"]["scenes"]["after"] for of in (run, full[name]))
            pairs[name] = run | {"places": {"scenes": {"before": before, "after": after}}}
        own, part = (f"{100 * gain_at(of, 'scenes').mean:.0f}" for of in (alone, full))
        parts.append(
            f"{own} points instead of {part} (difference {gain_at(pairs, 'scenes').unsigned}) for {len(alone)} {label}"
        )
    return ", and ".join(parts)


def true_change(name: str, run: dict) -> Difference:
    """Change of top-1 at the share of the verdict on images apart, where other backgrounds are those of all
    classes."""
    usual, other = (gain_at({name: run}, place) for place in ("home", "random"))
    share = run.get("share", 0)  # a model that is kept changes nowhere
    margin = math.hypot(
        *(part * (of.high - of.low) / 2 for part, of in zip((1 - share, share), (usual, other), strict=True))
    )
    mean = (1 - share) * usual.mean + share * other.mean
    return Difference(mean, mean - margin, mean + margin)


def verdicts() -> dict[str, str | int]:
    """How often `improve` answered, and how often it was wrong."""
    by_name = effort_runs()
    changes = [(run, true_change(of_set, run).mean) for (of_set, _), run in by_name.items()]
    outcomes = Counter(run["outcome"] for run, _ in changes)
    wrong = sum(run["outcome"] == "better" and change < 0 for run, change in changes)
    told = [(run["change"], change) for run, change in changes if "change" in run]
    return {
        "sets": len({of_set for of_set, _ in by_name}),
        "runs": len(changes),
        "outcomes": ", ".join(f"`{key}` ({count})" for key, count in outcomes.most_common()),
        "better": outcomes["better"],
        "wrong": f"{wrong or 'none'} {'was' if wrong < 2 else 'were'}",
        "held": sum(interval["low"] <= change <= interval["high"] for interval, change in told),
        "told": len(told),
    }


def all_sets() -> str:
    """Each set and arm: top-1 before and its change at each place; what was chosen; and the verdict."""
    rows, renamed = [], {"new": "scenes"}  # for digits, textures that nothing was trained on
    for name, of_set in improve_sets().items():
        for arm, run in of_set.items():
            shown = {}
            for place in run["places"]:
                before, change = top1_before({name: run}, place), gain_at({name: run}, place)
                shown[renamed.get(place, place)] = f"{before:.1f} {change}"
            places = [shown.get(place, "–") for place in PLACES]
            at_share = (
                [str(Difference(**run["change"])), str(true_change(name, run))] if "change" in run else ["–", "–"]
            )
            chosen = run["chosen"].replace("interpolation weight ", "").replace("by finetune,", "on the labels,")
            rows.append([name, arm, *places, chosen, run.get("outcome", "–"), *at_share])
    head = ["set", "arm", *PLACES.values(), "chosen", "outcome", "its change", "measured"]
    return f"{Table('', head, rows).markdown()}\n\n{commits_of('improve')}."


def learning_rates() -> str:
    """Expected top-1 of trainings with other learning rates than the rule's, at the best interpolation weight."""
    rows = []
    for name, of_model in benchmark("rates")["models"].items():
        best = [f"{max(worths.values()):.1f}" for worths in of_model["trained"].values()]
        rows.append([name, f"{of_model['rate']:g}", f"{of_model['before']:.1f}", *best])
    head = ["model", "rate of the rule", "original", *(f"{factor} ×" for factor in of_model["trained"])]
    return f"{Table('', head, rows).markdown()}\n\n{commits_of('rates')}."


def trainings() -> str:
    """Expected top-1 of trainings with other settings than those of `improve`, at the best interpolation weight."""
    models = benchmark("trainings")["models"]
    rows = [["none", *(f"{of_model['before']:.1f}" for of_model in models.values())]]
    for training in next(iter(models.values()))["trained"]:
        rows.append(
            [training, *(f"{max(of_model['trained'][training].values()):.1f}" for of_model in models.values())]
        )
    return f"{Table('', ['training', *models], rows).markdown()}\n\n{commits_of('trainings')}."


def estimates() -> str:
    """The estimate of the report minus top-1 on random backgrounds, before and after, and how often its interval holds
    top-1."""
    differences, held, rows = [], 0, []
    for name, of_set in improve_sets().items():
        sides = [("quick", "before")] + [(effort, "after") for effort in EFFORTS]
        for arm, side in sides:
            run = of_set.get(arm, {})
            if f"measures_{side}" not in run:
                continue
            expected = Interval(**run[f"measures_{side}"]["estimate"])
            found = top1(run, "random", side)
            differences.append(expected.mean - found)
            held += expected.low <= found <= expected.high
            rows.append(name)
    points = 100 * np.array(differences)
    return text(
        "estimates",
        models=len(points),
        sets=len({*rows}),
        mean=points.mean(),
        deviation=points.std(ddof=1),
        high=int((points > 0).sum()),
        held=held,
        **gains_on_composites(),
    )


def gains_on_composites() -> dict[str, float]:
    """How far the gain on composites is from the gain on random backgrounds, beyond what both samples explain."""
    differences, variances = [], []
    for name, run in ((name, run) for (name, _), run in effort_runs().items() if "other" in run):
        told, found = Difference(**run["other"]), gain_at({name: run}, "random")
        differences.append(100 * (told.mean - found.mean))
        deviations = [100 * (of.high - of.low) / (2 * NORMAL) for of in (told, found)]
        variances.append(deviations[0] ** 2 - (100 * COMPOSITES_ERROR) ** 2 + deviations[1] ** 2)
    whole, samples = statistics.mean(of**2 for of in differences), max(0.0, statistics.mean(variances))
    return {"runs": len(differences), "whole": math.sqrt(whole), "beyond": math.sqrt(whole - samples)}


def gain_of_layers(layers: str, measure: str, beside: str = "before", file: str = "last_layer") -> Difference:
    """Mean difference of top-1 over the models of last_layer.parquet between two kinds of layers."""
    models = by_group(file)
    return mean_over([(top1[layers][measure] - top1[beside][measure]) / 100 for top1 in models.values()], [*models])


def shown_and_others() -> str:
    """Gains of a new layer for shown and other classes, in a sentence."""
    shown, others, home = (
        gain_of_layers("as `improve`", name) for name in ("background_new, shown", "background_new, others", "val")
    )
    return text("shown-and-others", shown=shown, others=others, home=home)


def half_of_the_classes() -> str:
    """New layers and trainings on the same images, by the classes that were shown and the others."""
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
    for name in next(iter(by_group("other_layers").values())):
        if name != own:
            gains = [str(gain_of_layers(name, measure, own, "other_layers")) for measure in MEASURES]
            rows.append([name.replace("1 composites", "1 composite"), *gains])
    return Table("", ["layers", *MEASURES.values()], rows).markdown()


def example_verdicts() -> str:
    """The first sentences of both commands on the example, as the terminal shows them."""
    example = benchmark("example")
    improved = ". ".join(example["improve"]["verdict"].split(". ")[:2]).removesuffix(".")
    lines = [f"diagnose: {example['diagnosis']}", f"improve: {improved}."]
    return "```text\n" + "\n".join(lines) + "\n```"


def example_diagnosis() -> str:
    """The verdict of `diagnose` on the example of docs/diagnose.md."""
    return f"> {benchmark('example')['diagnosis']}"


def example_improvement() -> str:
    """The verdict of `improve` on the example, its table, and calibration."""
    improved = benchmark("example")["improve"]
    outcome, rows = improved["outcome"], []
    for name, share, key in (
        ("usual", 0.0, "usual"),
        ("other", 1.0, "other"),
        (f"{100 * outcome['share']:.0f} % other", outcome["share"], "change"),
    ):
        sides = ((1 - share) * outcome[side]["usual"] + share * outcome[side]["other"] for side in ("before", "after"))
        rows.append([f"{name} backgrounds", *(f"{100 * top1:.1f}" for top1 in sides), str(Difference(**outcome[key]))])
    table = Table("", ["top-1 in per cent", "before", "after", "change"], rows).markdown()
    texts = {"verdict": improved["verdict"], "calibration": calibration(improved["report"])}
    return text("example-improvement", table=table, **texts)


def example_elsewhere() -> str:
    """What `improve` gains on other images of the example, in a sentence."""
    row = benchmark("example")["elsewhere"]
    before, after = row["top1_before"], row["top1_after"]
    gain, told = Difference(after - before, row["change_low"], row["change_high"]), calibration(row)
    top1 = {"before": 100 * before, "after": 100 * after}
    return text("example-elsewhere", images=row["num_images"], gain=gain, calibration=told, **top1)


def calibration(row: dict) -> str:
    """How the expected calibration error changes, by a row of results."""
    return f"changes from {100 * row['ece_before']:.1f} to {100 * row['ece_after']:.1f} %"


BLOCKS: dict[str, Callable[[], str]] = {
    "what improve gains": in_short,
    "gains over models": lambda: summary().markdown(),
    "estimates": estimates,
    "shown and others": shown_and_others,
    "all sets": all_sets,
    "learning rates": learning_rates,
    "trainings": trainings,
    "half of the classes": half_of_the_classes,
    "other layers": other_layers,
    "example verdicts": example_verdicts,
    "example diagnosis": example_diagnosis,
    "example improvement": example_improvement,
    "example elsewhere": example_elsewhere,
}
