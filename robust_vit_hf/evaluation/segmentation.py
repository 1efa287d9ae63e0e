"""The segmentation test: how well the maps of several attribution methods agree with the masks of a set."""

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from ..data.benchmarks import IMAGES_PER_SET, benchmarks
from ..class_names.label_mapping import check_same_classes, classes_of_model
from ..data.identity import dataset_identity
from ..data.masked_dataset import check_columns, load_masked_dataset
from ..data.registry import load_image_set
from ..data.transforms import segmentation_transform
from ..metrics.relevance_segmentation import RelevanceSegmentation
from ..models.digest import weights_digest
from ..models.loading import load_model
from ..models.preprocessing import Preset, load_processor
from ..models.registry import MODELS, find_model
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..utils.environment import environment
from ..utils.files import read_json, write_atomically, write_json
from .cache import check_fingerprint, write_fingerprint
from .evaluate_sets import SCORES_FILE, check_logits, image_loader
from .figures import save_attribution_figure
from .report import RESULTS_FILE
from .tables import segmentation_table


NUM_EXAMPLES = 8


def evaluate_segmentation(
    model: str,
    compare: str | None,
    set: tuple[str, str | None] | None,
    output_dir: Path,
    accelerator: Accelerator,
    *,
    dataset: str | None = None,
    split: str = "validation",
    methods: Sequence[str] = tuple(ATTRIBUTION_METHODS),
    preset: Preset = "paper",
    paper_model: str | None = None,
    images_per_set: int = IMAGES_PER_SET,
    batch_size: int = 32,
    num_workers: int = 0,
    settings: dict | None = None,
) -> str:
    """Measure how well relevance maps cover the object, for a model or for two (before and after finetuning): Table 3 of the
    paper. Writes `results.json`, `table.md`, `table.tex`, and `attribution.png`, the maps of a few images.

    Results in `output_dir` from an earlier run are not measured again.

    Args:
        model, compare, paper_model, settings: as for [`evaluate_robustness`].
        set: name of a benchmark or of a set with masks, and its source, as for [`load_image_set`].
        dataset, split: images of your own with masks instead, as for [`load_masked_dataset`].
        methods: names from `ATTRIBUTION_METHODS`.
        preset: statistics that images are normalised with. Published figures are shown under the paper's alone.
        images_per_set: images of each set of a benchmark.

    Returns:
        The table, as Markdown; nothing in other processes than the main one.

    Raises:
        ValueError, OSError: as [`load_model`], [`load_image_set`] and [`segment_set`].
    """
    set_name, source = (split, dataset) if dataset is not None else set
    with accelerator.main_process_first():
        if dataset is not None:
            rows = load_masked_dataset(dataset, split)
            check_columns(rows, split, needs_labels=False)
        elif set_name in benchmarks():
            rows = datasets.concatenate_datasets(
                [*benchmarks()[set_name].load_evaluation_sets(images_per_set).values()]
            )
        else:
            rows = load_image_set(set_name, source)
    names = {"before": model} | ({"after": compare} if compare else {})
    models = {side: load_model(name).to(accelerator.device) for side, name in names.items()}
    if compare:
        check_same_classes(*(classes_of_model(loaded.config) for loaded in models.values()))
    processors = {side: load_processor(name, preset, models[side]) for side, name in names.items()}

    scores = {}
    for side in names:
        folder = output_dir / set_name / side
        fingerprint = {
            "weights": weights_digest(models[side]),
            "rows": dataset_identity(rows),
            "methods": list(methods),
            "processor": json.loads(processors[side].to_json_string()),
            "bf16": accelerator.mixed_precision == "bf16",
        }
        check_fingerprint(folder, fingerprint)
        scores[side] = read_json(folder / SCORES_FILE)
        accelerator.wait_for_everyone()  # until all have looked, before one writes
        if scores[side] is None:
            scores[side] = segment_set(
                models[side],
                rows,
                processors[side],
                accelerator,
                methods,
                batch_size=batch_size,
                num_workers=num_workers,
                description=f"{set_name}, {side}",
            )
            if accelerator.is_main_process:
                write_fingerprint(folder, fingerprint)
                write_json(folder / SCORES_FILE, scores[side])
    if not accelerator.is_main_process:
        return ""

    if paper_model is None and (registered := find_model(model)):
        paper_model = MODELS[registered].paper_name
    table = segmentation_table(scores, set_name, len(rows), paper_model if preset == "paper" else None)
    markdown = f"{table.title}:\n\n{table.markdown()}\n"
    results = {"settings": settings, "paper_model": paper_model, **environment(), "scores": {set_name: scores}}
    write_json(output_dir / RESULTS_FILE, results)
    write_atomically(output_dir / "table.md", markdown)
    write_atomically(output_dir / "table.tex", table.latex())
    if "openly_licensed" in rows.column_names:  # figures show no other artwork
        rows = rows.filter(lambda openly_licensed: openly_licensed, input_columns="openly_licensed")
    if count := min(NUM_EXAMPLES, len(rows)):
        examples = rows.select([index * len(rows) // count for index in range(count)])
        save_attribution_figure(models, processors, examples, methods, output_dir / "attribution.png")
    return markdown


def segment_set(
    model: nn.Module,
    dataset: datasets.Dataset,
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    methods: Sequence[str],
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    description: str = "segmenting",
) -> dict[str, dict]:
    """Scores of attribution methods on a set with masks, in one pass over its images.

    As in the paper's Table 3, images are squashed to the size of the processor's crop, and maps explain the predicted class.

    Args:
        model: image classification model on the accelerator's device.
        dataset: rows with `image` and `mask`.
        methods: names from `ATTRIBUTION_METHODS`.

    Returns:
        By method, what [`RelevanceSegmentation`] computes; nothing in other processes than the main one.

    Raises:
        ValueError: logits are NaN or infinite (the image is named), or an image or mask cannot be used (the row is named).

    Source: Table 3 of https://huggingface.co/papers/2206.01161
    """
    model.eval()
    pairs = dataset.select_columns(["image", "mask"])
    loader = image_loader(pairs, segmentation_transform(processor), batch_size, num_workers)
    main, done = accelerator.is_main_process, 0
    scores = {method: RelevanceSegmentation() for method in methods} if main else {}
    with tqdm(total=len(dataset), desc=description, unit="image", disable=not main) as progress:
        for batch in accelerator.prepare(loader):
            for method in methods:
                with torch.no_grad(), accelerator.autocast():
                    output = ATTRIBUTION_METHODS[method](model, batch["pixel_values"], check_finite=False)
                maps, masks, logits = accelerator.gather_for_metrics(
                    (output.relevance, batch["mask"], output.logits.float())
                )
                check_logits(logits, dataset, done, description)
                if main:
                    scores[method].update(maps, masks)
            done += len(masks)
            progress.update(len(masks))
    return {method: metric.compute() for method, metric in scores.items()}
