"""Metadata of a finetuning run, for its model card: `run.json`."""

import csv
from pathlib import Path

import datasets
from transformers import BaseImageProcessor, Trainer

from ..data.geometry import has_plain_geometry, input_size
from ..models.image_processors import preset_of
from ..models.model_digest import weights_digest
from ..models.model_names import MODELS, find_model
from ..relevance.architectures import ImageModel, why_no_map
from ..results.number_formats import percent
from ..utils.environment import environment
from ..utils.public_names import is_hub_id, public_name


def describe_run(trainer: Trainer, facts: dict) -> dict:
    """Model, data, hyper-parameters and cost of a run, as JSON values, from a [`RobustViTTrainer`] after training and the
    given arguments of its `create_model_card`."""
    args, processor = trainer.args, trainer.processing_class
    model = trainer.accelerator.unwrap_model(trainer.model)
    known = ImageModel(model)
    config, image_size = known.pretrained.config, input_size(processor)
    finetuned_from = facts.get("finetuned_from") or config._name_or_path or known.name
    name, hub_model_id = find_model(finetuned_from), trainer.hub_model_id or args.hub_model_id
    registered, validation = MODELS.get(name), trainer.validation
    base_model = registered and (registered.base_model or registered.hub_ids[0])
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "model_name": facts.get("model_name") or (hub_model_id or Path(args.output_dir).resolve().name).split("/")[-1],
        "hub_model_id": hub_model_id,
        "revision": facts.get("revision"),
        "weights": weights_digest(model),
        "finetuned_from": public_name(finetuned_from),
        "registered": name,  # `finetuned_from` may be the last part of a path
        "base_model": finetuned_from if is_hub_id(finetuned_from) else base_model,
        "language": facts.get("language"),
        "license": facts.get("license") or (registered and registered.license),
        "tags": _listed(facts.get("tags", [])),
        "tasks": _listed(facts.get("tasks", "image-classification")),
        "library_name": "peft" if getattr(model, "peft_config", {}) else "transformers",
        "architecture": known.name,
        "has_map": why_no_map(model) is None,
        "num_parameters": sum(
            count for name, count in parameters.items() if "lora_" not in name and ".original_module." not in name
        ),
        "num_classes": config.num_labels,
        "image_size": [*image_size],
        "forward_arguments": known.forward_arguments(image_size),
        "preset": facts.get("preset") or preset_of(processor),
        "preprocessing": _preprocessing(processor),
        "training": _hyperparameters(trainer),
        "data": _data(trainer.train_dataset, trainer.eval_dataset, facts, config.id2label),
        "validation": validation and {"images": len(trainer.eval_dataset), "text": _in_words(validation)},
        "steps": trainer.state.global_step,
        "seconds": round(trainer.time.seconds, 1),
        "resumed": trainer.time.resumed,
        **_energy(Path(args.output_dir)),
        **environment(),
    }


def _data(train: object, validation: object, facts: dict, class_names: dict[int, str]) -> dict:
    names, labels = _listed(facts.get("dataset")) or [], None
    if isinstance(train, datasets.Dataset) and "label" in train.column_names:
        labels = sorted(set(train.with_format(None)["label"]))
    counts = [0 if rows is None else len(rows) if hasattr(rows, "__len__") else None for rows in (train, validation)]
    return {
        "dataset": ", ".join(map(public_name, names)) or None,
        "dataset_on_hub": len(names) == 1 and is_hub_id(names[0]),
        "dataset_tags": _listed(facts.get("dataset_tags")),
        "dataset_args": _listed(facts.get("dataset_args")),
        "masks": facts.get("masks", "those that came with the dataset"),
        "train_images": counts[0],  # None: streamed
        "validation_images": counts[1],
        "training_classes": labels,
        "class_names": None if labels is None else [class_names[label] for label in labels],
    }


def _listed(value: str | list[str] | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value


def _in_words(metrics: dict[str, float]) -> str:
    names = ("loss", "relevance_loss", "background_loss", "foreground_loss", "confidence_loss")
    parts = [f"{name.replace('_', ' ')} {metrics[f'eval_{name}']:.4f}" for name in names if f"eval_{name}" in metrics]
    if "eval_original_top1" in metrics and "eval_top1" in metrics:
        top1 = f"top-1 {percent(metrics['eval_original_top1'])} before, {percent(metrics['eval_top1'])} after"
        parts = [top1, *parts]
    return ", ".join(parts)


def _hyperparameters(trainer: Trainer) -> dict[str, str]:
    args = trainer.args
    warmup = f"{args.warmup_steps:g} steps" if args.warmup_steps >= 1 else f"{100 * args.warmup_steps:g} %"
    checkpoint = "last"
    if args.load_best_model_at_end:
        best = "highest" if args.greater_is_better else "lowest"
        checkpoint = f"{best} {args.metric_for_best_model.removeprefix('eval_')} in validation"
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    return {
        "learning rate": f"{args.learning_rate:g}",
        **({"warm-up": warmup} if args.warmup_steps else {}),
        "epochs": f"{trainer.state.epoch or 0:g}",
        "batch": f"{trainer._train_batch_size * args.gradient_accumulation_steps * args.world_size} images, on {processes}",
        "optimiser": f"{args.optim.value}, weight decay {args.weight_decay:g}",
        **trainer.describe_method(),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": str(args.seed),
        "checkpoint": checkpoint,
    }


def _preprocessing(processor: BaseImageProcessor) -> str:
    if not has_plain_geometry(processor):
        return f"images prepared by `{type(processor).__name__}`"
    steps = []
    if processor.do_resize:
        size = dict(processor.size)
        resized = size.get("shortest_edge") or f"{size['height']}×{size['width']}"
        method = {2: "bilinear", 3: "bicubic"}.get(int(processor.resample), f"filter {int(processor.resample)}")
        steps.append(f"{'shortest side ' if 'shortest_edge' in size else ''}{resized} ({method})")
    if getattr(processor, "do_center_crop", False):
        steps.append(f"centre crop of {processor.crop_size['height']}×{processor.crop_size['width']}")
    if not processor.do_rescale or processor.rescale_factor != 1 / 255:
        steps.append(f"values from 0 to {255 * (processor.rescale_factor if processor.do_rescale else 1):g}")
    if processor.do_normalize:
        for name, values in (("mean", processor.image_mean), ("standard deviation", processor.image_std)):
            steps.append(f"{name} {', '.join(f'{value:g}' for value in values)}")
    else:
        steps.append("not normalised")
    return ", ".join(steps)


def _energy(folder: Path) -> dict[str, float | None]:
    """Energy and emissions of the last run in `emissions.csv`, written by transformers' CodeCarbon callback."""
    if not (folder / "emissions.csv").is_file():
        return {"energy_kwh": None, "emissions_kg": None}
    with open(folder / "emissions.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return {"energy_kwh": float(last["energy_consumed"]), "emissions_kg": float(last["emissions"])}
