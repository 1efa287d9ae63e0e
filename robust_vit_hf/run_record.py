"""What a finetuning tells of itself: `run.json`, from which its model card is made."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from .architectures import unwrap_pretrained
from .evaluation.tables import percent
from .files import public_name
from .models import EMOJI_SHIFT, weights_digest
from .report import environment
from .transforms import make_image_processor


if TYPE_CHECKING:
    from .trainer import RobustViTTrainer

RUN_FILE = "run.json"
EMISSIONS_FILE = "emissions.csv"  # of CodeCarbon, in the output_dir


def describe_run(
    trainer: "RobustViTTrainer",
    *,
    started_from: str | None = None,
    dataset: str | None = None,
    masks: str = "those that came with the data set",
    license: str | None = None,
    model_name: str | None = None,
    revision: str | None = None,
) -> dict:
    """What a card tells of a finetuning, as JSON values: model, data, hyper-parameters, effort.

    Args:
        trainer: after its training.
        started_from: Hub id or folder of the model before; what the model was loaded from by default.
        dataset: Hub id or folder of the images.
        masks: where the masks are from.
        license: of the finetuned model; nothing by default, since it depends on that of the model before.
        model_name: heading; by default the name on the Hub, or that of the `output_dir`.
        revision: branch on the Hub; `main` by default.
    """
    args, processor = trainer.args, trainer.processing_class
    model = trainer.accelerator.unwrap_model(trainer.model)
    pretrained = unwrap_pretrained(model)
    crop = processor.crop_size
    adapters = getattr(model, "peft_config", {})
    started_from = started_from or pretrained.config._name_or_path or type(pretrained).__name__
    on_hub = started_from.count("/") == 1 and not Path(started_from).exists()
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    scheduler = args.lr_scheduler_type.value
    if scheduler == "constant":
        scheduler = f"× {args.lr_decay_rate:g} every {args.lr_decay_every} epochs"
    warmup = f"{args.warmup_steps:g} steps" if args.warmup_steps >= 1 else f"{100 * args.warmup_steps:g} %"
    training = {
        "learning rate": f"{args.learning_rate:g}, {scheduler}",
        **({"warm-up": warmup} if args.warmup_steps else {}),
        "epochs": f"{trainer.state.epoch or 0:g}",
        "batch": f"{args.train_batch_size * args.gradient_accumulation_steps * args.world_size} images, on "
        f"{args.world_size} process{'es' if args.world_size > 1 else ''}",
        "optimiser": f"{args.optim.value}, weight decay {args.weight_decay:g}",
        "weights: relevance, confidence": f"{args.relevance_weight:g}, {args.confidence_weight:g}",
        "weights: background, foreground": f"{args.background_weight:g}, {args.foreground_weight:g}",
        "distance of relevance and mask": args.relevance_distance + (", second order" if args.second_order else ""),
        "classes: of the relevance, of the confidence": f"{args.relevance_target}, {args.confidence_target}",
        "temperature of the confidence": f"{args.confidence_temperature:g}",
        "precision": precision,
        "seed": str(args.seed),
        "checkpoint": "last",
    }
    if args.load_best_model_at_end:
        best = "highest" if args.greater_is_better else "lowest"
        training["checkpoint"] = f"{best} {args.metric_for_best_model.removeprefix('eval_')} in validation"
    if trainer.adapter is not None:
        kind, rank = trainer.adapter.peft_type.value, getattr(trainer.adapter, "r", None)
        training["adapter"] = f"{kind}{f' of rank {rank}' if rank else ''}{'' if adapters else ', merged'}"
    train, validation = trainer.train_dataset, trainer.eval_dataset
    labels, hub_model_id = None, trainer.hub_model_id or args.hub_model_id
    if isinstance(train, datasets.Dataset) and "label" in train.column_names:
        labels = sorted(set(train.with_format(None)["label"]))
    return {
        "model_name": model_name or (hub_model_id or Path(args.output_dir).resolve().name).split("/")[-1],
        "hub_model_id": hub_model_id,
        "revision": revision,
        "weights": weights_digest(model),
        "started_from": public_name(started_from),
        "base_model": started_from if on_hub else "facebook/dinov2-small" if started_from == EMOJI_SHIFT else None,
        "license": license,
        "library_name": "peft" if adapters else "transformers",
        "architecture": type(pretrained).__name__,
        "num_parameters": sum(
            p.numel()
            for name, p in model.named_parameters()
            if "lora_" not in name and ".original_module." not in name
        ),
        "num_classes": pretrained.config.num_labels,
        "image_size": [crop["height"], crop["width"]],
        "preset": "paper"
        if _same(processor, make_image_processor("paper", (crop["height"], crop["width"])))
        else "own",
        "preprocessing": _preprocessing(processor),
        "training": training,
        "data": {
            "dataset": None if dataset is None else public_name(dataset),
            "dataset_on_hub": dataset is not None and dataset.count("/") == 1 and not Path(dataset).exists(),
            "masks": masks,
            "train_images": 0 if train is None else len(train),
            "validation_images": 0 if validation is None else len(validation),
            "training_classes": labels,
            "class_names": None if labels is None else [pretrained.config.id2label[label] for label in labels],
        },
        "validation": _validation(trainer),
        "steps": trainer.state.global_step,
        "seconds": next(
            (e["train_runtime"] for e in reversed(trainer.state.log_history) if "train_runtime" in e), None
        ),
        "resumed": trainer.resumed,
        **_energy(Path(args.output_dir)),
        **environment(),
    }


def _same(processor, other) -> bool:
    names = ("size", "crop_size", "resample", "image_mean", "image_std", "do_center_crop")
    return all(getattr(processor, name) == getattr(other, name) for name in names)


def _preprocessing(processor) -> str:
    size, crop = dict(processor.size), processor.crop_size
    resized = size.get("shortest_edge") or f"{size['height']}×{size['width']}"
    method = {2: "bilinear", 3: "bicubic"}.get(int(processor.resample), f"filter {int(processor.resample)}")
    edge = "shortest side " if "shortest_edge" in size else ""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (processor.image_mean, processor.image_std))
    return f"{edge}{resized} ({method}), centre crop of {crop['height']}×{crop['width']}, mean {mean}, standard deviation {std}"


def _validation(trainer: "RobustViTTrainer") -> dict | None:
    """The evaluation of the checkpoint that was kept, in words."""
    state, kept = trainer.state, trainer.validation
    if trainer.args.load_best_model_at_end and state.best_global_step is not None:
        # The first of that step: later ones may be of other images.
        logs = [e for e in state.log_history if e["step"] == state.best_global_step and "eval_loss" in e]
        kept = logs[0] if logs else {}
    elif kept.get("step") != state.global_step:
        kept = {}
    if not kept:
        return None
    names = ("loss", "relevance_loss", "background_loss", "foreground_loss", "confidence_loss")
    parts = [f"{name.replace('_', ' ')} {kept[f'eval_{name}']:.4f}" for name in names if f"eval_{name}" in kept]
    if "eval_original_top1" in kept and "eval_top1" in kept:
        parts.insert(0, f"top-1 {percent(kept['eval_original_top1'])} before, {percent(kept['eval_top1'])} after")
    return {"images": len(trainer.eval_dataset), "text": ", ".join(parts)}


def _energy(folder: Path) -> dict[str, float | None]:
    """Of the last run in CodeCarbon's `emissions.csv`, which the callback of transformers writes."""
    if not (folder / EMISSIONS_FILE).is_file():
        return {"energy_kwh": None, "emissions_kg": None}
    with open(folder / EMISSIONS_FILE, newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return {"energy_kwh": float(last["energy_consumed"]), "emissions_kg": float(last["emissions"])}
