"""Whether `diagnose` names the attribute that was planted, and what `improve` then gains (shortcuts.parquet)."""

from collections.abc import Callable

import numpy as np
from scipy.stats import binomtest

from robust_vit_hf.data.background_edits import ATTRIBUTES
from robust_vit_hf.diagnosis.verdict import AttributeDiagnosis
from robust_vit_hf.results.tables import Table

from ..benchmarks.planted_images import PLANTED
from ..sweeps.seed_intervals import Difference
from .text_blocks import outcomes, text


COST = 0.1  # of the attribute drawn at random, from which on it should be named
ROUNDING = 1e-9  # 0.9 - 0.8 is less than 0.1 in floats
UNTOLD = "compression"  # no attribute of `diagnose`


def groups_of(results: dict[str, dict]) -> dict[tuple[str, str], dict[str, dict]]:
    """Results by what was trained, and by the share of the images of a class that have its usual value."""
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for key, one in results.items():
        _, _, rate, _, *finetuned = key.split("/")
        group = ("whole model" if finetuned else "last layer", f"{100 * float(rate):g} %")
        found.setdefault(group, {})[key] = one
    return dict(sorted(found.items()))


def is_costly(result: dict) -> bool:
    return result["home"] - result["random"] >= COST - ROUNDING


def matrix(results: dict[str, dict]) -> Table:
    """How often each attribute was named, by what was planted, where that costs [`COST`] or more; and of nothing
    planted."""
    heads, rows = [*ATTRIBUTES, "nothing"], []
    for group, of_group in groups_of(results).items():
        for planted in PLANTED:
            counted = [one for key, one in of_group.items() if f"/{planted}/" in key]
            if planted != "none":
                counted = [one for one in counted if is_costly(one)]
            if counted:
                costs = [one["home"] - one["random"] for one in counted]
                named = [sum(name in (one["named"] or ["nothing"]) for one in counted) for name in heads]
                rows.append([*group, planted, str(len(counted)), f"{100 * np.mean(costs):.0f}", *map(str, named)])
    return Table("Planted × named", ["trained", "usual value", "planted", "models", "cost, points", *heads], rows)


def mended_table(results: dict[str, dict]) -> Table:
    """Top-1 before, and its changes by a new last layer without and with the named attributes."""
    rows = []
    for key, one in results.items():
        cells = []
        for found in one.get("improved", {}).values():
            changes = {name: str(Difference(**found[name])) for name in ("without", "with", "more")}
            if {*one["named"]} <= {"background"}:
                changes |= {"with": "–", "more": "–"}
            cells += [f"{100 * found['before']:.1f}", *changes.values()]
        if cells:
            rows.append([key, ", ".join(one["named"]) or "nothing", *cells])
    heads = ["without", "with the attribute", "with − without"]
    return Table("Top-1", ["model", "named", "at random, before", *heads, "usual, before", *heads], rows)


def summary(results: dict[str, dict]) -> str:
    """Counts of each group of [`groups_of`], and of all."""
    lines = [f"- {', '.join(group)}. {counts(of_group)}" for group, of_group in groups_of(results).items()]
    return "\n".join([*lines, f"- All. {all_counts(results)}"])


def counts(results: dict[str, dict]) -> str:
    """How often what was planted is named, and how often something where nothing was."""
    kinds = [(key.split("/")[1], one) for key, one in results.items()]
    costly = [(of, one["named"]) for of, one in kinds if of != "none" and is_costly(one)]
    told = [(planted, names) for planted, names in costly if planted != UNTOLD]
    first = sum(names[:1] == [planted] for planted, names in told)
    alone = sum(names == [planted] for planted, names in told)
    alarms = [bool(one["named"]) for planted, one in kinds if planted == "none"]
    numbers = {"told": len(told), "first": first, "alone": alone, "costly": len(costly), "untold": UNTOLD}
    found = text("attributes-named", cost=100 * COST, **numbers)
    if alarms:
        found += f" Where nothing is planted, an attribute is named in {sum(alarms)} of {len(alarms)} models."
    return found


def all_counts(results: dict[str, dict]) -> str:
    """[`counts`], what the false alarms show, and how many names stand on an inconclusive gap."""
    kinds, found = [(key.split("/")[1], one) for key, one in results.items()], counts(results)
    alarms = [bool(one["named"]) for planted, one in kinds if planted == "none"]
    if alarms:
        most = binomtest(sum(alarms), len(alarms), alternative="less").proportion_ci().high
        found += f" So the rate of false alarms is at most {100 * most:.0f} % (95 %, one-sided, if the models were "
        found += "independent)."
    right = [name == of for of, one in kinds for name in one["named"] if one["measures"][name]["gap"]["low"] <= 0]
    count = sum(len(one["named"]) for _, one in kinds)
    return (
        f"{found} Of the {count} attributes named in all models, {len(right)} have an inconclusive gap; "
        f"{sum(right)} of "
        "these are right."
    )


def shortcuts() -> str:
    """Counts of the attributes that were named, by the attribute that was planted."""
    models = outcomes("shortcuts")[0]
    return f"{matrix(models).markdown()}\n\n{summary(models)}"


def verdict_of_a_frame() -> str:
    """What `diagnose` says of the model of `shortcuts --planted border --rates 0.95 --export`."""
    model = outcomes("shortcuts")[0]["emoji/border/0.95/3"]
    diagnosis = AttributeDiagnosis({}, [*model["measures"]])
    measures = {
        name: {key: Difference(**of) for key, of in measured.items()} for name, measured in model["measures"].items()
    }
    vars(diagnosis).update(measures=measures, named=model["named"])  # the sentence was of an earlier version
    return f"> {diagnosis.sentence}"


BLOCKS: dict[str, Callable[[], str]] = {
    "shortcuts": shortcuts,
    "attributes named": lambda: all_counts(outcomes("shortcuts")[0]),
    "verdict of a frame": verdict_of_a_frame,
    "improved with attributes": lambda: mended_table(outcomes("shortcuts")[0]).markdown(),
}
