"""The results of a run beside its model: `results.json`, the table and the before/after figure."""

from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BaseImageProcessor

from ..data.transforms import eval_transform
from ..models.digest import weights_digest
from ..relevance.overlay import denormalize
from ..relevance.relevance_map import relevance_map
from ..utils.environment import environment
from ..utils.files import write_atomically, write_json
from ..utils.publishable import public_settings
from .compare import Comparison
from .figures import save_before_after_figure
from .protocols import EvaluationSet
from .tables import main_table


RESULTS_FILE, TABLE_FILE, FIGURE_FILE = "results.json", "table.md", "before_after.png"
NUM_EXAMPLES = 4  # in a group of the figure
NUM_CANDIDATES = 60  # corrected images that are searched for those whose relevance left the background most


def summarize(comparison: Comparison, sets: dict[str, EvaluationSet]) -> dict:
    """Rows and class groups of a comparison, and the sources of its images, as JSON values."""
    return {
        "rows": comparison.rows(),
        "sources": public_settings({name: rows.source for name, rows in sets.items()}),
        "class_groups": comparison.class_groups(),
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
    results = summarize(comparison, sets) | {
        "settings": settings,
        "weights": {side: weights_digest(model) for side, model in models.items()},
        **environment(),
    }
    write_json(folder / RESULTS_FILE, results)
    write_atomically(folder / TABLE_FILE, main_table(results["rows"]).markdown() + "\n")

    def explained(name: str, index: int) -> dict:
        row = sets[name].dataset.with_transform(eval_transform(processor))[index]
        pixel_values = row["pixel_values"].expand(2, -1, -1, -1)
        label, names = int(comparison.before[name].classes[index]), models["before"].config.id2label
        example = {"set_name": name, "image": denormalize(pixel_values, processor)[0], "label": names[label]}
        for side, model in models.items():
            device, predicted = (
                next(model.parameters()).device,
                int(comparison.sides[side][name].predictions[index, 0]),
            )
            model.eval()
            with torch.no_grad():
                targets = torch.tensor([predicted, label], device=device)
                example[side] = relevance_map(model, pixel_values.to(device), targets).relevance.cpu()
            example[f"predicted_{side}"] = names[predicted]
            if "mask" in row:
                relevance = example[side][0]
                share = (relevance * (1 - row["mask"])).sum() / relevance.sum().clamp_min(1e-6)
                example[f"background_{side}"] = share.item()
        return example

    corrected = _changed(comparison, sets, was_right=False, is_right=True)
    masked = [image for image in corrected if "mask" in sets[image[0]].dataset.column_names][:NUM_CANDIDATES]
    ranked = sorted(
        (explained(*image) for image in masked), key=lambda e: e["background_after"] - e["background_before"]
    )
    groups = {f"Corrected, of {len(masked)} those whose\nrelevance left the background most": ranked[:NUM_EXAMPLES]}
    drawn = {"Corrected": corrected, "Got worse": _changed(comparison, sets, was_right=True, is_right=False)}
    if not any(drawn.values()):
        drawn = {"No prediction changed": _changed(comparison, sets, was_right=True, is_right=True)}
    rng = np.random.default_rng(0)
    for title, images in drawn.items():
        chosen = rng.permutation(len(images))[:NUM_EXAMPLES]
        groups[f"{title}, of {len(images)}\ndrawn at random (seed 0)"] = [explained(*images[i]) for i in chosen]
    save_before_after_figure(groups, folder / FIGURE_FILE)


def _changed(
    comparison: Comparison, sets: dict[str, EvaluationSet], was_right: bool, is_right: bool
) -> list[tuple[str, int]]:
    """Set and index of all images, taken from the sets in turn, that were classified right or wrong before and after."""
    candidates = []
    for name, before in comparison.before.items():
        if before.accepted is None:
            continue
        chosen = before.usable & (before.correct() == was_right) & (comparison.after[name].correct() == is_right)
        if "openly_licensed" in sets[name].dataset.column_names:  # figures show no other artwork
            chosen &= np.array(sets[name].dataset["openly_licensed"][:], dtype=bool)
        candidates.append([(name, index) for index in chosen.nonzero()[0].tolist()])
    in_turn = chain.from_iterable(zip_longest(*candidates))
    return [image for image in in_turn if image is not None]
