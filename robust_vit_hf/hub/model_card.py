"""Model cards: the facts of a run, and the `README.md` made from them."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn
from transformers import BaseImageProcessor, Trainer
from transformers.utils import logging

from ..data.known_sets import PAPER_SETS
from ..data.stream import MaskedStream
from ..data.transforms import input_size
from ..models.image_processors import protocol_of
from ..models.loading import base_digest, load_model, weights_digest
from ..models.model_names import MODELS, find_model, registered_of
from ..relevance.architectures import ImageModel, why_no_map
from ..results.tables import MEAN_ROW, Table, change, change_with_interval, main_table, number, percent
from ..utils.environment import environment
from ..utils.files import RESULTS_FILE, RUN_FILE, read_json, write_atomically, write_json
from ..utils.privacy import is_hub_id, public_name
from .options import CardOptions


logger = logging.get_logger(__name__)

EVALUATION_FILE, CARD_FILE = "evaluation.json", "README.md"
# Pictures by file of results. The template has the captions.
FIGURES = {
    RESULTS_FILE: ["before_after.png"],
    EVALUATION_FILE: ["accuracy_paper.png", "accuracy_native.png", "accuracy_model.png"],
}
# Scores that may get worse: name, whether higher is better, and function that formats a value.
SCORES = {
    "top1": ("Top-1, per cent", True, percent),
    "top5": ("Top-5, per cent", True, percent),
    "ece": ("Expected calibration error, per cent", False, percent),
    "nll": ("Negative log-likelihood, nats", False, number),
    "brier": ("Brier score", False, number),
    "mean_iou": ("Mean IoU of relevance map and mask, per cent", True, percent),
    "pixel_accuracy": ("Pixel accuracy of the relevance map, per cent", True, percent),
    "mean_ap": ("Average precision of the relevance map, per cent", True, percent),
}
TAGS = ("image-classification", "robust-vit-hf", "robustness", "explainability")  # the Hub adds the cited papers


def describe_run(trainer: Trainer, facts: dict) -> dict:
    """Contents of `run.json`: JSON values from a [`RobustViTTrainer`], and from the `facts` for its card."""
    args, logs, count = trainer.args, trainer.state.log_history, None
    model = trainer.accelerator.unwrap_model(trainer.model)
    facts = {"hub_model_id": trainer.hub_model_id or args.hub_model_id, "folder": args.output_dir} | facts
    # The saved model is the best one, if the Trainer loads that, or the last one.
    saved = trainer.state.best_global_step if args.load_best_model_at_end else trainer.state.global_step
    validation = next((log for log in logs if log["step"] == saved and "eval_loss" in log), None)
    if hasattr(trainer.eval_dataset, "__len__"):
        count = len(trainer.eval_dataset)
    return describe_model(model, trainer.processing_class, facts, trainer.train_dataset, trainer.eval_dataset) | {
        "training": _hyperparameters(trainer, facts.get("adapter")),
        "validation": validation and {"images": count, "text": _in_words(validation)},
        "steps": trainer.state.global_step,
        "seconds": round(sum(log.get("train_runtime", 0.0) for log in logs), 1),
        "base_digest": base_digest(model),
    }


def describe_model(
    model: nn.Module, processor: BaseImageProcessor, facts: dict, train: object, validation: object = None
) -> dict:
    """Model and data of a run, as JSON values. `facts` are arguments of `create_model_card`, and `folder`, where the model is saved."""
    known = ImageModel(model)
    config, image_size = known.pretrained.config, input_size(processor)
    finetuned_from = facts.get("finetuned_from") or config._name_or_path or known.name
    name, hub_model_id = find_model(finetuned_from), facts.get("hub_model_id")
    registered = MODELS.get(name)
    base_model = registered and (registered.base_model or registered.hub_ids[0])
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "model_name": facts.get("model_name") or (hub_model_id or Path(facts["folder"]).resolve().name).split("/")[-1],
        "hub_model_id": hub_model_id,
        "revision": facts.get("revision"),
        "weights": weights_digest(model),
        "finetuned_from": public_name(finetuned_from),
        "registered": name,  # `finetuned_from` is not enough, since it may be the last part of a path
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
        "protocol": facts.get("protocol") or protocol_of(processor),
        "data": _data(train, validation, facts, config.id2label),
        "training": {},
        "validation": None,
        "steps": 0,
        "seconds": 0.0,
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
        "masks": facts.get("masks", "given with the images"),
        "train_images": counts[0],  # `None` for a stream
        "validation_images": counts[1],
        "training_classes": labels,
        "class_names": None if labels is None else [class_names[label] for label in labels],
    }


def _listed(value: str | list[str] | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value


def _in_words(metrics: dict[str, float]) -> str:
    names = ("loss", "relevance_loss", "background_loss", "foreground_loss", "confidence_loss")
    parts = [f"{name.replace('_', ' ')} {metrics[f'eval_{name}']:.4f}" for name in names if f"eval_{name}" in metrics]
    if "eval_top1" in metrics:
        parts = [f"top-1 {percent(metrics['eval_top1'])}", *parts]
    return ", ".join(parts)


def _hyperparameters(trainer: Trainer, adapter: str | None) -> dict[str, str]:
    args = trainer.args
    rows = args.describe() | ({} if adapter is None else {"adapter": adapter})
    if isinstance(trainer.train_dataset, MaskedStream) and args.lr_scheduler_type == "step_decay":
        rows["learning rate"] = f"{args.learning_rate:g}, constant"  # a stream has no epochs
    warmup = f"{args.warmup_steps:g} steps" if args.warmup_steps >= 1 else f"{100 * args.warmup_steps:g} %"
    checkpoint = "last"
    if args.load_best_model_at_end:
        best = "highest" if args.greater_is_better else "lowest"
        checkpoint = f"{best} {args.metric_for_best_model.removeprefix('eval_')} in validation"
    size = trainer._train_batch_size * args.gradient_accumulation_steps * args.world_size
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    return {
        "learning rate": f"{args.learning_rate:g}",
        **({"warm-up": warmup} if args.warmup_steps else {}),
        "epochs": f"{trainer.state.epoch or 0:g}",
        "batch": f"{size} image{'s' if size > 1 else ''}, on {processes}",
        "optimiser": f"{args.optim.value}, weight decay {args.weight_decay:g}",
        **rows,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": str(args.seed),
        "checkpoint": checkpoint,
    }


def rewrite_card(options: CardOptions) -> str:
    if options.evaluation is not None:
        add_evaluation(options.folder, options.evaluation)
    write_card(options.folder)
    return str(options.folder / CARD_FILE)


def make_card(
    run: dict, results: dict | None = None, evaluation: dict | None = None, figures: Sequence[str] = ()
) -> ModelCard:
    """Model card, with only measured results, and with metadata that includes the `model-index`.

    Args:
        run: contents of `run.json`, see [`describe_run`].
        results: `results.json` of `robust-vit train`, if there is one.
        evaluation: results of `robust-vit evaluate`, which are shown instead of `results`.
        figures: those of [`FIGURES`] that are in the folder of the card.
    """
    data, registered = run["data"], MODELS.get(registered_of(run))
    parts = [results | {"protocol": run["protocol"]}] if results else []
    if evaluation is not None:
        parts = [part | {"protocol": name} for name, part in evaluation["protocols"].items()]
    rows = [row for part in parts for row in part["rows"]]
    validation = (results or {}).get("settings", {}).get("data", {}).get("eval_split")
    is_validation = "verdict" in run or [row["set"] for row in rows] == [validation]
    metadata = ModelCardData(
        language=run["language"],
        license=run["license"],
        library_name=run["library_name"],
        pipeline_tag=run["tasks"][0],
        base_model=run["base_model"],
        datasets=data["dataset_tags"] or ([data["dataset"]] if data["dataset_on_hub"] else None),
        tags=[*TAGS, *run["tags"]],
        metrics=["accuracy"] if parts else None,
        model_name=run["model_name"],
        eval_results=[entry for part in parts for entry in _eval_results(part, data)] or None,
    )
    return ModelCard.from_template(
        metadata,
        template_path=str(Path(__file__).parent / "model_card_template.md"),
        **{"verdict": None, "notes": [], "has_map": True} | run,
        interpolates="interpolate_pos_encoding" in run.get("forward_arguments", {}),
        id=run["hub_model_id"] or f"path/to/{run['model_name']}",
        at=f', revision="{run["revision"]}"' if run["revision"] else "",
        note=registered.note if registered is not None else None,
        evaluated=evaluation is not None,
        has_control=any(row["top1_control"] is not None for row in rows),
        results=[_shown(part) for part in parts],
        chose_checkpoint=evaluation is None and results is not None and is_validation,
        figures=figures,
        worse=[line for part in parts for line in _what_got_worse(part, several=len(parts) > 1)],
    )


def write_card(folder: Path) -> None:
    """Write the `README.md` of a folder from its JSON files and pictures. Results of other weights are left out."""
    run, figures = read_json(folder / RUN_FILE), []
    if run is None:
        raise FileNotFoundError(f"`{folder}` has no `{RUN_FILE}`: expected the output of `train` or `improve`.")
    measured: list[dict | None] = []
    for file, pictures in FIGURES.items():
        contents = read_json(folder / file)
        if contents is not None and contents.get("weights", {}).get("after") != run.get("weights"):
            logger.warning(f"The card leaves out `{folder / file}`: its weights are not those of `{RUN_FILE}`.")
            contents = None
        measured.append(contents)
        figures += [name for name in pictures if contents is not None and (folder / name).is_file()]
    write_atomically(folder / CARD_FILE, str(make_card(run, measured[0], measured[1], figures)))


def add_evaluation(folder: Path, evaluation_folder: Path) -> None:
    """Add results of `robust-vit evaluate` to the folder of the finetuned model, if they are of its weights."""
    evaluation = read_json(evaluation_folder / RESULTS_FILE) or {}
    measured = evaluation.get("weights", {}) if "protocols" in evaluation else {}
    # The absolute path cannot be the name of a registered model.
    known = {"after": weights_digest(load_model(str(folder.absolute())))}
    recorded = (read_json(folder / RESULTS_FILE) or {}).get("weights", {})
    if recorded.get("after") == known["after"]:  # otherwise these results are of weights that were replaced
        known |= recorded
    if other := [side for side, digest in known.items() if measured.get(side) != digest]:
        raise ValueError(
            f"`{evaluation_folder}` has no results of the weights {other[0]} the finetuning of `{folder}`. Run "
            f"`robust-vit evaluate --model ORIGINAL --compare {folder}`, and give its --output_dir."
        )
    write_json(
        folder / EVALUATION_FILE, {key: evaluation[key] for key in ("weights", "versions", "hardware", "protocols")}
    )
    for picture in FIGURES[EVALUATION_FILE]:
        protocol, target = picture.removeprefix("accuracy_").removesuffix(".png"), folder / picture
        target.unlink(missing_ok=True)
        plot = evaluation_folder / "plots" / protocol / "accuracy.png"
        if protocol in evaluation["protocols"] and plot.is_file():
            shutil.copy(plot, target)


def _shown(part: dict) -> dict:
    reliance = [Table(**facts) for facts in part.get("reliance", ())]
    table = main_table(part["rows"]).markdown()
    return {"protocol": part["protocol"], "table": table, "rows": part["rows"], "reliance": reliance}


def _eval_results(part: dict, data: dict) -> Iterator[EvalResult]:
    for row in part["rows"]:
        name = row["set"]
        source = part.get("sources", {}).get(name) or data["dataset"] or "own images"
        of = name if name in PAPER_SETS else public_name(source)
        for side, metric in (("after", "top-1"), ("before", "top-1 before finetuning")):
            if name != MEAN_ROW and row[f"top1_{side}"] is not None:
                is_own = data["dataset_args"] and source == data["dataset"]
                yield EvalResult(
                    task_type="image-classification",
                    task_name="Image classification",
                    dataset_type=of,
                    dataset_name=f"{of if of == name else f'{of}, {name}'} ({part['protocol']} protocol)",
                    dataset_config=part["protocol"],
                    dataset_split=name,
                    dataset_args={"args": data["dataset_args"]} if is_own else None,
                    metric_type="accuracy",
                    metric_name=metric,
                    metric_value=round(row[f"top1_{side}"], 4),
                )


def _what_got_worse(part: dict, several: bool) -> Iterator[str]:
    where = f" under protocol `{part['protocol']}`" if several else ""
    for score, (name, rises, show) in SCORES.items():
        worse = []
        for row in part["rows"]:
            before, after = row[f"{score}_before"], row[f"{score}_after"]
            if None not in (before, after) and (after < before if rises else after > before):
                interval = f" ({change_with_interval(row)})" if score == "top1" else ""
                worse.append(f"`{row['set']}` {show(before)} → {show(after)}{interval}")
        if worse:
            yield f"{name}{where}: {', '.join(worse)}."
    compared = [row for row in part["rows"] if row["set"] != MEAN_ROW and row["broken"] is not None]
    if broken := sum(row["broken"] for row in compared):
        images = sum(row["num_images"] for row in compared)
        yield f"Classified correctly before and not now{where}: {broken:,} of {images:,} test images."
    for kind, text in (("training", "shown in training"), ("other", "not shown in training")):
        groups = [of for of in part["class_groups"] if of["classes"] == kind and of.get("top1_after") is not None]
        before, after = (
            sum(of[f"top1_{side}"] for of in groups) / max(len(groups), 1) for side in ("before", "after")
        )
        if after < before:
            means = f"{percent(before)} before, {percent(after)} after ({change(before, after)})"
            yield f"Top-1 of the classes {text}, mean of the sets{where}: {means}."
