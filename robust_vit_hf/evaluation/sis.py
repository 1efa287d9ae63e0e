"""Sufficient input subsets of a set of images: their size, their share on the foreground, and how they bear their neighbours."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from ..data.benchmarks import IMAGES_PER_SET
from ..class_names.label_mapping import check_same_classes, class_index, classes_of_model
from ..data.masked_dataset import check_columns, load_masked_dataset
from ..data.transforms import eval_transform
from ..models.digest import weights_digest
from ..models.loading import load_model
from ..models.preprocessing import Preset, load_processor
from ..relevance.overlay import denormalize
from ..relevance.relevance_map import forward_logits
from ..relevance.sis import margin, sufficient_input_subsets
from ..utils.environment import environment
from ..utils.files import atomic_file, write_atomically, write_json
from .cache import check_fingerprint, write_fingerprint
from .evaluate_sets import image_loader
from .figures import save_picture_grid
from .protocols import EvaluationSet, load_evaluation_sets
from .report import RESULTS_FILE
from .tables import Table, percent


NUM_EXAMPLES = 4


def evaluate_subsets(
    model: str,
    compare: str | None,
    sets: Sequence[tuple[str, str | None]],
    output_dir: Path,
    accelerator: Accelerator,
    *,
    dataset: str | None = None,
    split: str = "validation",
    images: Sequence[Path] = (),
    classes: Sequence[str] = (),
    num_images: int = 20,
    preset: Preset = "paper",
    threshold: float = 0.9,
    pixels_per_step: int = 100,
    batch_size: int = 8,
    settings: dict | None = None,
) -> str:
    """Sufficient input subsets of a model, or of two (before and after finetuning), in one process. Writes `results.json`,
    `table.md`, `table.tex`, `sis.png` (Figure 5 of the paper), and the subsets of each batch.

    Batches in `output_dir` from an earlier run are not computed again.

    Args:
        model, compare, settings: as for [`evaluate_robustness`].
        sets: as for [`load_evaluation_sets`].
        dataset, split: images of your own as well, as for [`load_masked_dataset`]; masks are optional.
        images: image files as well.
        classes: names or ids of the classes to explain, each for every image; by default the label of each image.
        num_images: images of each set, evenly spaced over it.
        preset: statistics that images are normalised with.
        threshold, pixels_per_step: as for [`sufficient_input_subsets`].
        batch_size: pairs of an image and a class that are masked at once.

    Returns:
        The table, as Markdown.

    Raises:
        ValueError: sets, classes or models that do not fit together, before the first pair; or as [`sufficient_input_subsets`].
        OSError: there is no such model, set or image.
    """
    names = {"before": model} | ({"after": compare} if compare else {})
    models = {side: load_model(name).to(accelerator.device) for side, name in names.items()}
    class_names = classes_of_model(models["before"].config)
    if compare:
        check_same_classes(class_names, classes_of_model(models["after"].config))
    targets = [class_index(name, class_names) for name in classes]
    loaded = load_evaluation_sets(sets, preset, IMAGES_PER_SET)
    own = _own_sets(dataset, split, images, needs_labels=not targets)
    if taken := own.keys() & loaded.keys():
        raise ValueError(f"`{taken.pop()}` names two of the sets: measure one at a time.")
    loaded = {
        name: _evenly_spaced(name, rows.for_model(name, models["before"].config), num_images, needs_labels=not targets)
        for name, rows in (loaded | own).items()
    }
    processors = {side: load_processor(name, preset, models[side]) for side, name in names.items()}

    options = {"threshold": threshold, "pixels_per_step": pixels_per_step}
    measured, examples = {}, []
    for name, rows in loaded.items():
        pairs = [
            (index, target) for index in range(len(rows.dataset)) for target in targets or rows.accepted[index][:1]
        ]
        measured[name] = {}
        for side in names:
            folder = output_dir / name / side
            fingerprint = {
                "weights": weights_digest(models[side]),
                "rows": rows.digest,
                "targets": [target for _, target in pairs],
                "processor": json.loads(processors[side].to_json_string()),
                "batch_size": batch_size,
                "bf16": accelerator.mixed_precision == "bf16",
            } | options
            check_fingerprint(folder, fingerprint)
            write_fingerprint(folder, fingerprint)
            measured[name][side] = _measure_pairs(
                models[side],
                rows,
                pairs,
                processors[side],
                accelerator,
                folder,
                batch_size,
                f"{name}, {side}",
                **options,
            )
        for index in _shown(rows.dataset)[: NUM_EXAMPLES - len(examples)]:
            examples.append(_pictures(name, rows, index, pairs, measured[name], processors["before"], class_names))

    if len(loaded) > 1:
        measured["all"] = {side: _concatenate([of[side] for of in measured.values()]) for side in names}
    scores = {name: {side: summarize_subsets(found) for side, found in of.items()} for name, of in measured.items()}
    table = subsets_table(scores, threshold)
    markdown = f"{table.title}:\n\n{table.markdown()}\n"
    write_json(output_dir / RESULTS_FILE, {"settings": settings, **environment(), "scores": scores})
    write_atomically(output_dir / "table.md", markdown)
    write_atomically(output_dir / "table.tex", table.latex())
    if examples:
        save_picture_grid(examples, output_dir / "sis.png")
    return markdown


def _own_sets(dataset: str | None, split: str, images: Sequence[Path], needs_labels: bool) -> dict[str, EvaluationSet]:
    """Images of your own: a dataset by the name of its split, and files as `images`."""
    own = {}
    if dataset is not None:
        rows = load_masked_dataset(dataset, split)
        check_columns(rows, split, needs_labels, needs_masks="mask" in rows.column_names)
        own[split.partition("[")[0]] = EvaluationSet.of(rows)
    if images:
        if missing := [path for path in images if not path.is_file()]:
            raise FileNotFoundError(f"There is no image file `{missing[0]}`.")
        files = datasets.Dataset.from_dict({"image": [str(path) for path in images]})
        own["images"] = EvaluationSet.of(files.cast_column("image", datasets.Image()))
    return own


def _evenly_spaced(name: str, rows: EvaluationSet, num_images: int, needs_labels: bool) -> EvaluationSet:
    """A set with `num_images` of its images, of those with a label if one is needed."""
    if needs_labels and rows.accepted is None:
        raise ValueError(f"`{name}` has no labels: name the classes to explain with `--classes`.")
    usable = [index for index in range(len(rows.dataset)) if not needs_labels or rows.accepted[index]]
    count = min(num_images, len(usable))
    chosen = [usable[number * len(usable) // count] for number in range(count)]
    accepted = rows.accepted and [rows.accepted[index] for index in chosen]
    return replace(rows, dataset=rows.dataset.select(chosen), accepted=accepted)


def _measure_pairs(
    model: nn.Module,
    rows: EvaluationSet,
    pairs: list[tuple[int, int]],
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    folder: Path,
    batch_size: int,
    description: str,
    **options,
) -> dict[str, torch.Tensor]:
    """Subsets of pairs of an image's index and a class, and what is measured of them, on the CPU. Each batch is a file in
    `folder`; those that are there already are read."""
    columns = ["image", "mask"] if "mask" in rows.dataset.column_names else ["image"]
    repeated = rows.dataset.select([index for index, _ in pairs]).select_columns(columns)
    loader = image_loader(repeated, eval_transform(processor, rows.border), batch_size, 0)
    batches = []
    with tqdm(total=len(pairs), desc=description, unit="pair") as progress:
        for number, batch in enumerate(loader):
            path = folder / f"{number:05}.safetensors"
            if not path.is_file():
                targets = [target for _, target in pairs[number * batch_size : (number + 1) * batch_size]]
                with accelerator.autocast():
                    measured = _measure_batch(
                        model,
                        batch["pixel_values"].to(accelerator.device),
                        torch.tensor(targets, device=accelerator.device),
                        batch.get("mask"),
                        **options,
                    )
                with atomic_file(path) as partial:
                    save_file({key: value.cpu().contiguous() for key, value in measured.items()}, partial)
            batches.append(load_file(path))
            progress.update(len(batch["pixel_values"]))
    return _concatenate(batches)


def _measure_batch(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor, masks: torch.Tensor | None, **options
) -> dict[str, torch.Tensor]:
    """Subsets of a batch. Each value has B rows: `subset`, `found`, `confidence` and `margins` as in [`SufficientSubsets`];
    `revealed`, the probability with the 8 neighbours of each pixel visible too; with masks `(B, 1, H, W)`, the shares of the
    subset (NaN if it is empty) and of the image that are `foreground` and `image_foreground`."""
    output = sufficient_input_subsets(model, pixel_values, target, **options)
    subset = output.subset.to(pixel_values.dtype)
    neighbourhood = F.max_pool2d(subset, kernel_size=3, stride=1, padding=1)
    with torch.no_grad():
        revealed = margin(forward_logits(model, pixel_values * neighbourhood), target).sigmoid()
    measured = {name: output[name] for name in ("subset", "found", "confidence", "margins")} | {"revealed": revealed}
    if masks is not None:
        masks = masks.to(pixel_values.device)
        measured["foreground"] = (subset * masks).sum(dim=(1, 2, 3)) / subset.sum(dim=(1, 2, 3))
        measured["image_foreground"] = masks.mean(dim=(1, 2, 3))
    return measured


def _concatenate(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    shared = set.intersection(*(set(part) for part in parts))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name in shared}


def summarize_subsets(measured: dict[str, torch.Tensor]) -> dict[str, float | int | None]:
    """Number of pairs, share of them with a subset, and means over those with one; `None` where there is nothing to average.

    Args:
        measured: what [`_measure_batch`] gives, with a row for each pair.
    """
    found = measured["found"]
    means = {"size": measured["subset"].float().mean(dim=(1, 2, 3)), "confidence": measured["confidence"]}
    means |= {"revealed": measured["revealed"], "all_masked": measured["margins"][:, -1].sigmoid()}
    means |= {name: measured[name] for name in ("foreground", "image_foreground") if name in measured}
    summary = {"pairs": len(found), "found": found.float().mean().item()}
    for name, values in means.items():
        mean = values[found].float().nanmean().item()
        summary[name] = None if math.isnan(mean) else mean
    return summary


def subsets_table(scores: dict[str, dict[str, dict]], threshold: float) -> Table:
    """Table of [`summarize_subsets`] by set and side, in per cent."""
    columns = {
        "subset found": "found",
        "pixels": "size",
        "on the foreground": "foreground",
        "(of the image)": "image_foreground",
        "probability": "confidence",
        "with neighbours": "revealed",
        "all masked": "all_masked",
    }
    rows = [
        [f"{name}, {side}", str(summary["pairs"]), *(percent(summary.get(key)) for key in columns.values())]
        for name, of_sides in scores.items()
        for side, summary in of_sides.items()
    ]
    title = f"Sufficient input subsets at a probability of {threshold:g}, in per cent"
    return Table(title, ["set, model", "pairs", *columns], rows)


def _shown(dataset: datasets.Dataset) -> list[int]:
    """Indices of the images that a figure may show."""
    if "openly_licensed" not in dataset.column_names:
        return list(range(len(dataset)))
    return [index for index, allowed in enumerate(dataset.with_format(None)["openly_licensed"]) if allowed]


def _pictures(
    name: str,
    rows: EvaluationSet,
    index: int,
    pairs: list[tuple[int, int]],
    measured: dict[str, dict[str, torch.Tensor]],
    processor: BaseImageProcessor,
    class_names: list[str],
) -> list[tuple[str, torch.Tensor]]:
    """Row of the figure: an image and its subsets, as the model sees them, each with a caption."""
    loader = image_loader(
        rows.dataset.select([index]).select_columns("image"), eval_transform(processor, rows.border), 1, 0
    )
    pixel_values = next(iter(loader))["pixel_values"]
    label = class_names[rows.accepted[index][0]] if rows.accepted and rows.accepted[index] else ""
    pictures = [(f"{name}\n{label}", denormalize(pixel_values, processor)[0])]
    for number in [number for number, (row, _) in enumerate(pairs) if row == index]:
        for side, found in measured.items():
            subset, probability = found["subset"][number], found["confidence"][number]
            caption = f"{100 * subset.float().mean():.1f} % of pixels" if found["found"][number] else "none found"
            caption = f"{class_names[pairs[number][1]]}, {side}\n{caption}: {100 * probability:.0f} %"
            pictures.append((caption, denormalize(pixel_values * subset, processor)[0]))
    return pictures
