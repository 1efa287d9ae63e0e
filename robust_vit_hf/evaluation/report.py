"""The results of a run beside its model: `results.json`, the table and the before/after figure."""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import BaseImageProcessor

from ..data.transforms import eval_transform
from ..models.digest import weights_digest
from ..relevance.overlay import denormalize
from ..relevance.relevance_map import relevance_map
from ..utils.environment import environment
from ..utils.files import write_atomically
from ..utils.publishable import public_settings
from .compare import Comparison
from .figures import save_before_after_figure
from .protocols import EvaluationSet
from .tables import main_table


RESULTS_FILE, TABLE_FILE, FIGURE_FILE = "results.json", "table.md", "before_after.png"


def write_report(
    folder: Path,
    comparison: Comparison,
    sets: dict[str, EvaluationSet],
    processor: BaseImageProcessor,
    models: dict[str, nn.Module],
    settings: dict,
) -> None:
    """Write the results of a run.

    Args:
        folder: where to; it exists.
        comparison: results of all sets.
        sets: the evaluation sets.
        processor: image processor of both models.
        models: `"before"` and `"after"`.
        settings: what the run was asked for, as JSON values.
    """
    results = {
        "rows": comparison.rows(),
        "sources": public_settings({name: rows.source for name, rows in sets.items()}),
        "class_groups": comparison.class_groups(),
        "settings": settings,
        "weights": {side: weights_digest(model) for side, model in models.items()},
        **environment(),
    }
    write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    write_atomically(folder / TABLE_FILE, main_table(results["rows"]).markdown() + "\n")

    def examples(was_right: bool, is_right: bool) -> list[dict]:
        return _examples(comparison, sets, processor, models, was_right, is_right)

    groups = {
        "Predictions that were corrected": examples(was_right=False, is_right=True),
        "Predictions that got worse": examples(was_right=True, is_right=False),
    }
    if not any(groups.values()):
        groups = {"No prediction changed": examples(was_right=True, is_right=True)}
    save_before_after_figure(groups, folder / FIGURE_FILE)


def _examples(
    comparison: Comparison,
    sets: dict[str, EvaluationSet],
    processor: BaseImageProcessor,
    models: dict[str, nn.Module],
    was_right: bool,
    is_right: bool,
    count: int = 8,
) -> list[dict]:
    """Test images, going round the sets, whose predictions were right or wrong before and after."""
    candidates = {}
    for name, before in comparison.before.items():
        after = comparison.after[name]
        if before.accepted is None:
            continue
        chosen = before.usable & (before.correct() == was_right) & (after.correct() == is_right)
        indices = chosen.nonzero()[0].tolist()
        if "openly_licensed" in sets[name].dataset.column_names:  # figures show no other artwork
            shown = sets[name].dataset["openly_licensed"]
            indices = [index for index in indices if shown[index]]
        candidates[name] = indices

    chosen = []
    for rank in range(count):
        chosen += [(name, indices[rank]) for name, indices in candidates.items() if rank < len(indices)]
    examples = []
    for name, index in chosen[:count]:
        row = sets[name].dataset.with_transform(eval_transform(processor))[index]
        pixel_values = row["pixel_values"].unsqueeze(0)
        label = int(comparison.before[name].classes[index])
        names = models["before"].config.id2label
        example = {"set_name": name, "image": denormalize(pixel_values, processor)[0], "label": names[label]}
        for side, model in models.items():
            model.eval()
            with torch.no_grad():
                # Both maps explain the true class, so that they can be compared.
                maps = relevance_map(model, pixel_values.to(next(model.parameters()).device), label).relevance
            example[side] = maps[0].cpu()
            example[f"predicted_{side}"] = names[int(comparison.sides[side][name].predictions[index, 0])]
        examples.append(example)
    return examples
