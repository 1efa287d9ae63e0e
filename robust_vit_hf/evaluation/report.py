"""The results of a run beside its model: `results.json`, the table, the before/after figure and examples."""

from itertools import chain
from pathlib import Path

from torch import nn
from transformers import BaseImageProcessor

from ..models.digest import weights_digest
from ..utils.environment import environment
from ..utils.files import write_atomically, write_json
from ..utils.publishable import public_settings
from .compare import Comparison
from .examples import EXAMPLES_FILE, KINDS, NUM_EXAMPLES, draw, explain, rows_of_kind, save_examples
from .figures import before_after_figure
from .protocols import EvaluationSet
from .tables import main_table


RESULTS_FILE, TABLE_FILE, FIGURE_FILE = "results.json", "table.md", "before_after.png"
NUM_SHOWN = 4  # in a group of the figure
NUM_CANDIDATES = 60  # corrected images that are searched for those whose relevance left the background most


def summarize(comparison: Comparison, sets: dict[str, EvaluationSet]) -> dict:
    """What a comparison says of its sets, and the sources of their images, as JSON values."""
    labelled = [name for name, result in comparison.before.items() if result.accepted is not None]
    return {
        "rows": comparison.rows(),
        "sources": public_settings({name: rows.source for name, rows in sets.items()}),
        "class_groups": comparison.class_groups(),
        "class_changes": {name: comparison.class_changes(name) for name in labelled} if comparison.after else {},
        "curves": {name: curves for name in labelled if (curves := comparison.curves(name))},
    }


def write_report(
    folder: Path,
    comparison: Comparison,
    sets: dict[str, EvaluationSet],
    processor: BaseImageProcessor,
    models: dict[str, nn.Module],
    settings: dict,
) -> None:
    """Write the results of a run into a folder that exists.

    Args:
        processor: image processor of both models.
        models: `"before"` and `"after"`.
        settings: options of the run, as JSON values.
    """
    names = models["before"].config.id2label
    results = summarize(comparison, sets) | {
        "settings": settings,
        "weights": {side: weights_digest(model) for side, model in models.items()},
        "class_names": names,
        **environment(),
    }
    write_json(folder / RESULTS_FILE, results)
    write_atomically(folder / TABLE_FILE, main_table(results["rows"]).markdown() + "\n")

    before, after = comparison.before, comparison.after
    found = {kind: rows_of_kind(kind, before, after, sets) for kind in KINDS}
    masked = {name: rows for name, rows in found["corrected"].items() if "mask" in sets[name].dataset.column_names}
    candidates = draw(masked, NUM_CANDIDATES, seed=0)
    drawn = {kind: draw(rows, NUM_EXAMPLES, seed=0) for kind, rows in found.items()}
    wanted = list(dict.fromkeys([*candidates, *chain.from_iterable(drawn.values())]))
    processors = dict.fromkeys(models, processor)
    explained = explain(wanted, models, processors, sets, {"before": before, "after": after}, names)
    by_image = dict(zip(wanted, explained, strict=True))
    examples = {kind: [by_image[image] for image in images] for kind, images in drawn.items()}
    if any(examples.values()):
        save_examples(examples, folder / EXAMPLES_FILE)
    ranked = sorted(
        (by_image[image] for image in candidates), key=lambda e: e.background["after"] - e.background["before"]
    )
    groups = {f"Corrected, of {len(ranked)} those whose\nrelevance left the background most": ranked[:NUM_SHOWN]}
    titles = {"corrected": "Corrected", "broken": "Got worse"}
    if not drawn["corrected"] and not drawn["broken"]:
        titles = {"unchanged": "No prediction changed"}
    for kind, title in titles.items():
        total = sum(map(len, found[kind].values()))
        groups[f"{title}, of {total}\ndrawn at random (seed 0)"] = examples[kind][:NUM_SHOWN]
    if any(groups.values()):
        before_after_figure([groups]).savefig(folder / FIGURE_FILE, dpi=90)
