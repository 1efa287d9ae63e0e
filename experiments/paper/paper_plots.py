"""The paper's Figures 4 and 7 from the runs of an experiment, and the values of 8 to 14.

Source: https://huggingface.co/papers/2206.01161
"""

import math
from collections import Counter

import numpy as np
from matplotlib.figure import Figure

from robust_vit_hf.results.tables import class_changes
from robust_vit_hf.utils.images import plain

from ..sweeps.gain_and_price import COLOURS
from ..sweeps.results import Results
from ..sweeps.runs import OURS, Run
from ..sweeps.seed_intervals import change
from .published_tables import averaged_models, group_accuracy
from .set_titles import title_of


def class_group_figure(results: Results) -> Figure | None:
    """Figure 4: average change of top-1 and top-5 on training and other classes, by set, over [`averaged_models`]."""
    averaged = averaged_models(results)
    runs = [run for run in results.of(OURS) if run.training_classes and run.model in averaged]
    sets = results.common_by_class(runs, results.sets)
    if not sets:
        return None
    figure = Figure((2 + 1.6 * len(sets), 3.6), layout="constrained")
    for axis, k in zip(figure.subplots(1, 2, sharey=True), (1, 5), strict=True):
        for offset, shown, colour in ((-0.2, True, COLOURS[0]), (0.2, False, COLOURS[1])):
            heights = []
            for name in sets:
                pairs = [group_accuracy(run, name, shown, k) for run in runs]
                changes = [after - before for before, after in pairs if None not in (before, after)]
                heights.append(100 * float(np.mean(changes)) if changes else math.nan)
            label = "training classes" if shown else "other classes"
            if not all(map(math.isnan, heights)):
                axis.bar([place + offset for place in range(len(sets))], heights, 0.4, label=label, color=colour)
        axis.axhline(0, color="black", linewidth=0.8)
        names = [plain(title_of(name)) for name in sets]
        axis.set_xticks(range(len(sets)), names, rotation=35, ha="right", fontsize=8)
        axis.set_title(f"top-{k}", fontsize=9)
    figure.axes[0].set_ylabel("average change, points")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def size_figure(results: Results) -> Figure | None:
    """Figure 7: change of top-1 over (a) the samples per class and (b) the number of training classes, of the full
    loss and of the variants `fewer-…` and `more-…`. Each panel shows the runs with the most frequent value of the
    other variable. `None` if neither varies."""
    runs = [run for run in results.runs if run.training_classes]
    runs = [run for run in runs if run.method.partition(",")[0] == OURS or run.method.startswith(("fewer-", "more-"))]
    samples = {run.name: round(run.train_images / len(run.training_classes), 2) for run in runs}
    classes = {run.name: len(run.training_classes) for run in runs}
    panels = {}
    for title, varied, fixed in (("samples of a class", samples, classes), ("training classes", classes, samples)):
        for value, _ in Counter(fixed.values()).most_common(1):
            chosen = [run for run in runs if fixed[run.name] == value]
            if len({varied[run.name] for run in chosen}) > 1:
                panels[title] = (chosen, varied)
    if not panels:
        return None
    figure = Figure((0.8 + 4 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, (chosen, varied)) in zip(axes, panels.items(), strict=True):
        axis.set_prop_cycle(color=COLOURS)
        steps = sorted({varied[run.name] for run in chosen})
        by_step: dict[float, list[Run]] = {step: [r for r in chosen if varied[r.name] == step] for step in steps}
        for name in results.common(chosen, results.sets):
            values = [100 * change(by_step[step], [name]).mean for step in steps]
            axis.plot(steps, values, marker=".", label=plain(title_of(name)))
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel(title)
    axes[0].set_ylabel("change of top-1, points")
    axes[-1].legend(frameon=False, fontsize=7)
    return figure


def first_class_changes(results: Results) -> dict[str, dict[int, float]]:
    """[`class_changes`] of each set by class, of the first model (ViT-B in the paper), over the seeds."""
    runs = results.of(OURS, results.models[0])
    return {
        name: class_changes([run.sets[name] for run in runs]) for name in results.common_by_class(runs, results.sets)
    }
