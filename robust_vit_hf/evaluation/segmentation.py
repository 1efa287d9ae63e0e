"""The segmentation test: how well the maps of several attribution methods agree with the masks of a set."""

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, default_data_collator

from ..data.benchmarks import benchmarks
from ..data.masked_dataset import check_columns, load_masked_dataset
from ..data.registry import load_image_set
from ..data.transforms import segmentation_transform
from ..metrics.relevance_segmentation import RelevanceSegmentation
from ..models.digest import weights_digest
from ..models.image_processors import load_processor
from ..models.loading import load_model
from ..models.presets import Preset
from ..models.registry import MODELS, find_model
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..utils.environment import environment
from ..utils.files import write_atomically
from .cache import check_fingerprint, write_fingerprint
from .evaluate_sets import check_logits
from .figures import save_attribution_figure
from .report import RESULTS_FILE
from .tables import segmentation_table


SCORES_FILE, NUM_EXAMPLES = "scores.json", 8


def evaluate_segmentation(
    model: str,
    compare: str | None,
    set_name: str,
    source: str | None,
    output_dir: Path,
    accelerator: Accelerator,
    *,
    split: str | None = None,
    methods: Sequence[str] = tuple(ATTRIBUTION_METHODS),
    preset: Preset = "paper",
    paper_model: str | None = None,
    images_per_set: int = 200,
    batch_size: int = 32,
    num_workers: int = 0,
    settings: dict | None = None,
) -> str:
    """Measure how well relevance maps cover the object, for a model or for two (before and after finetuning): Table 3 of the
    paper. Writes `results.json`, `table.md`, `table.tex`, and `attribution.png`, the maps of a few images.

    Results that lie in `output_dir` are not measured again.

    Args:
        model, compare: the model, or the model before and after finetuning: name, Hub id or folder.
        set_name, source: benchmark or set of the paper with masks, and where it is; or the path of images of your own
            with masks, of which `split` is read.
        methods: names from `ATTRIBUTION_METHODS`.
        preset: statistics that images are normalised with. The paper's figures are shown beside its own alone.
        paper_model: the paper's name of `model`; by default known from what `model` is.
        images_per_set: images of each set of a benchmark.
        settings: what the command was asked for, for `results.json`.

    Returns:
        The table, as Markdown.

    Raises:
        ValueError, OSError: as [`load_model`], [`load_image_set`] and [`segment_set`].
    """
    with accelerator.main_process_first():
        dataset = _load_rows(set_name, source, split, images_per_set)
    set_name = split or set_name
    names = {"before": model} | ({"after": compare} if compare else {})
    models = {side: load_model(name).to(accelerator.device) for side, name in names.items()}
    processors = {side: load_processor(name, preset, models[side]) for side, name in names.items()}

    scores = {}
    for side, name in names.items():
        folder = output_dir / set_name / side
        fingerprint = {
            "model": name,
            "weights": weights_digest(models[side]),
            "source": source,
            "images": len(dataset),
            "methods": list(methods),
            "processor": json.loads(processors[side].to_json_string()),
            "bf16": accelerator.mixed_precision == "bf16",
        }
        check_fingerprint(folder, fingerprint)
        path = folder / SCORES_FILE
        finished = path.is_file()
        accelerator.wait_for_everyone()  # until all have looked, before one writes
        if finished:
            scores[side] = json.loads(path.read_text())
            continue
        scores[side] = segment_set(
            models[side],
            dataset,
            processors[side],
            accelerator,
            methods,
            batch_size=batch_size,
            num_workers=num_workers,
            description=f"{set_name}, {side}",
        )
        if accelerator.is_main_process:
            write_fingerprint(folder, fingerprint)
            write_atomically(path, json.dumps(scores[side], indent=2) + "\n")
    if not accelerator.is_main_process:
        return ""

    if paper_model is None and (registered := find_model(model)):
        paper_model = MODELS[registered].paper_name
    table = segmentation_table(scores, set_name, len(dataset), paper_model if preset == "paper" else None)
    markdown = f"{table.title}:\n\n{table.markdown()}\n"
    summary = {"settings": settings, "paper_model": paper_model, **environment(), "scores": {set_name: scores}}
    write_atomically(output_dir / RESULTS_FILE, json.dumps(summary, indent=2) + "\n")
    write_atomically(output_dir / "table.md", markdown)
    write_atomically(output_dir / "table.tex", table.latex())
    shown = dataset
    if "openly_licensed" in dataset.column_names:
        shown = dataset.filter(lambda openly_licensed: openly_licensed, input_columns="openly_licensed")
    if count := min(NUM_EXAMPLES, len(shown)):
        examples = shown.select([index * len(shown) // count for index in range(count)])
        save_attribution_figure(models, processors, examples, methods, output_dir / "attribution.png")
    return markdown


def _load_rows(name: str, source: str | None, split: str | None, images_per_set: int) -> datasets.Dataset:
    if split is not None:
        dataset = load_masked_dataset(source, split)
        check_columns(dataset, split, needs_labels=False)
        return dataset
    if name in benchmarks():
        return datasets.concatenate_datasets(list(benchmarks()[name].load_evaluation_sets(images_per_set).values()))
    return load_image_set(name, source)


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
        By method what [`RelevanceSegmentation`] computes; other processes than the main one get nothing.

    Raises:
        ValueError: logits are NaN or infinite (the image is named), or a mask has another size than its image.

    Source: Table 3 of https://huggingface.co/papers/2206.01161
    """
    model.eval()
    loader = DataLoader(
        dataset.select_columns(["image", "mask"]).with_transform(segmentation_transform(processor)),
        batch_size,
        num_workers=num_workers,
        collate_fn=default_data_collator,
    )
    file_names = dataset.with_format(None)["file_name"] if "file_name" in dataset.column_names else None
    main, done = accelerator.is_main_process, 0
    scores = {method: RelevanceSegmentation() for method in methods} if main else {}
    with tqdm(total=len(dataset), desc=description, unit="image", disable=not main) as progress:
        for batch in accelerator.prepare(loader):
            for method in methods:
                with torch.no_grad(), accelerator.autocast():
                    output = ATTRIBUTION_METHODS[method](model, batch["pixel_values"])
                maps, masks, logits = accelerator.gather_for_metrics(
                    (output.relevance, batch["mask"], output.logits.float())
                )
                check_logits(logits, file_names, done, description)
                if main:
                    scores[method].update(maps, masks)
            done += len(masks)
            progress.update(len(masks))
    return {method: metric.compute() for method, metric in scores.items()}
