"""Model cards: the facts of a run, the `README.md` made from them, and results for the leaderboards of the Hub."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import datasets
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from torch import nn
from transformers import BaseImageProcessor, Trainer
from transformers.utils import logging

from ..data.known_sets import EVALUATION_SETS, KNOWN_SETS, PAPER_SETS
from ..data.stream import MaskedStream
from ..data.transforms import has_plain_geometry, input_size
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
# One file for each protocol, since a file has one score for each benchmark. Other files in this folder are the user's.
EVAL_RESULTS_FILES = f"{EVAL_RESULTS_FOLDER}/robust-vit-hf-*.yaml"
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
        "preprocessing": _preprocessing(processor),
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
    data, measurements = run["data"], _measurements(run, results, evaluation)
    tables = []
    for part in measurements:
        reliance, table = [Table(**facts) for facts in part.get("reliance", ())], main_table(part["rows"]).markdown()
        tables.append({"protocol": part["protocol"], "table": table, "rows": part["rows"], "reliance": reliance})
    registered = MODELS.get(registered_of(run))
    measured = [row["set"] for part in measurements for row in part["rows"]]
    validation = (results or {}).get("settings", {}).get("data", {}).get("eval_split")
    metadata = ModelCardData(
        language=run["language"],
        license=run["license"],
        library_name=run["library_name"],
        pipeline_tag=run["tasks"][0],
        base_model=run["base_model"],
        datasets=data["dataset_tags"] or ([data["dataset"]] if data["dataset_on_hub"] else None),
        tags=[*TAGS, *run["tags"]],
        metrics=["accuracy"] if measurements else None,
        model_name=run["model_name"],
        eval_results=_eval_results(measurements, data["dataset"], data["dataset_args"]) or None,
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
        has_control=any(row["top1_control"] is not None for part in measurements for row in part["rows"]),
        results=tables,
        chose_checkpoint=evaluation is None and results is not None and ("verdict" in run or measured == [validation]),
        figures=figures,
        worse=_what_got_worse(measurements),
    )


def _measurements(run: dict, results: dict | None, evaluation: dict | None) -> list[dict]:
    if evaluation is not None:
        facts = {"date": evaluation.get("date"), "file": EVALUATION_FILE}
        return [part | {"protocol": name} | facts for name, part in evaluation["protocols"].items()]
    return [] if results is None else [results | {"protocol": run["protocol"], "file": RESULTS_FILE}]


def write_card(folder: Path) -> None:
    """Write the `README.md` of a folder, and its files for leaderboards, from its JSON files and pictures. Results of other weights
    are left out."""
    run, figures = read_json(folder / RUN_FILE), []
    if run is None:
        raise FileNotFoundError(f"`{folder}` has no `{RUN_FILE}`: expected the output of `train` or `improve`.")
    run.setdefault("protocol", run.get("preset"))  # the key of versions up to 0.3
    measured: list[dict | None] = []
    for file, pictures in FIGURES.items():
        contents = read_json(folder / file)
        if contents is not None and contents.get("weights", {}).get("after") != run.get("weights"):
            logger.warning(f"The card leaves out `{folder / file}`: its weights are not those of `{RUN_FILE}`.")
            contents = None
        measured.append(contents and {"date": _date_of(folder / file)} | contents)
        figures += [name for name in pictures if contents is not None and (folder / name).is_file()]
    results, evaluation = measured
    write_atomically(folder / CARD_FILE, str(make_card(run, results, evaluation, figures)))
    write_eval_results(folder, _measurements(run, results, evaluation), run.get("hub_model_id"))


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
            f"`{evaluation_folder}` has no results of the weights {other[0]} the finetuning of `{folder}`, "
            f"{'but of other weights' if measured else 'and of no others'}. Run `robust-vit evaluate --model ORIGINAL --compare {folder}`, and give "
            "its --output_dir."
        )
    for picture in FIGURES[EVALUATION_FILE]:
        (folder / picture).unlink(missing_ok=True)
    kept = {key: evaluation[key] for key in ("weights", "versions", "hardware", "protocols")}
    kept["date"] = _date_of(evaluation_folder / RESULTS_FILE)
    write_json(folder / EVALUATION_FILE, kept)
    for protocol in evaluation["protocols"]:
        plot = evaluation_folder / "plots" / protocol / "accuracy.png"
        if plot.is_file():
            shutil.copy(plot, folder / f"accuracy_{protocol}.png")


def _date_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _eval_results(measurements: list[dict], own_data: str | None, own_args: list[str] | None) -> list[EvalResult]:
    entries = []
    for part in measurements:
        for row in part["rows"]:
            name = row["set"]
            if name == MEAN_ROW:
                continue
            source = part.get("sources", {}).get(name) or own_data or "own images"
            data = name if name in PAPER_SETS else public_name(source)
            for side, metric in (("after", "top-1"), ("before", "top-1 before finetuning")):
                if row[f"top1_{side}"] is not None:
                    entry = EvalResult(
                        task_type="image-classification",
                        task_name="Image classification",
                        dataset_type=data,
                        dataset_name=f"{data if data == name else f'{data}, {name}'} ({part['protocol']} protocol)",
                        dataset_config=part["protocol"],
                        dataset_split=name,
                        dataset_args={"args": own_args} if own_args and source == own_data else None,
                        metric_type="accuracy",
                        metric_name=metric,
                        metric_value=round(row[f"top1_{side}"], 4),
                    )
                    entries.append(entry)
    return entries


def _what_got_worse(measurements: list[dict]) -> list[str]:
    lines = []
    for part in measurements:
        where = f" under protocol `{part['protocol']}`" if len(measurements) > 1 else ""
        for score, (name, rises, show) in SCORES.items():
            worse = []
            for row in part["rows"]:
                before, after = row[f"{score}_before"], row[f"{score}_after"]
                if None not in (before, after) and (after < before if rises else after > before):
                    interval = f" ({change_with_interval(row)})" if score == "top1" else ""
                    worse.append(f"`{row['set']}` {show(before)} → {show(after)}{interval}")
            if worse:
                lines.append(f"{name}{where}: {', '.join(worse)}.")
        compared = [row for row in part["rows"] if row["set"] != MEAN_ROW and row["broken"] is not None]
        if broken := sum(row["broken"] for row in compared):
            images = sum(row["num_images"] for row in compared)
            lines.append(f"Classified correctly before and not now{where}: {broken:,} of {images:,} test images.")
        for kind, text in (("training", "shown in training"), ("other", "not shown in training")):
            groups = [
                row for row in part["class_groups"] if row["classes"] == kind and row.get("top1_after") is not None
            ]
            before, after = (
                sum(row[f"top1_{side}"] for row in groups) / max(len(groups), 1) for side in ("before", "after")
            )
            if after < before:
                means = f"{percent(before)} before, {percent(after)} after ({change(before, after)})"
                lines.append(f"Top-1 of the classes {text}, mean of the sets{where}: {means}.")
    return lines


def write_eval_results(folder: Path, measurements: Iterable[Mapping], repo_id: str | None) -> None:
    """Write results on public sets for the Hub (https://huggingface.co/docs/hub/eval-results), one file for each protocol, and
    remove earlier files.

    Args:
        measurements: each has `protocol`, `date`, `file`, the name of the file with these results in the repository, and
            `sources`, `revisions` and `rows` of [`summarize`].
    """
    for path in folder.glob(EVAL_RESULTS_FILES):
        path.unlink()
    for part in measurements:
        facts = {"date": part.get("date")}
        if repo_id is not None:
            url = f"https://huggingface.co/{repo_id}/blob/main/{part['file']}"
            facts |= {"source_url": url, "source_name": "robust-vit evaluate"}
        if entries := public_results(part, **facts):
            path = folder / EVAL_RESULTS_FILES.replace("*", part["protocol"])
            write_atomically(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))


def public_results(part: Mapping, **facts) -> list[EvalResultEntry]:
    """Top-1 in per cent on each set that was read from a known public copy; other copies may be variants of the set. `facts` are
    added to all entries."""
    entries = []
    for row in part["rows"]:
        name = row["set"]
        if name not in EVALUATION_SETS or row["top1_after"] is None:
            continue
        known, source = KNOWN_SETS[name], part.get("sources", {}).get(name)
        copies = {**dict.fromkeys(known.hub_files, (None, None)), **known.hub}
        source = next(iter(copies), None) if source == name else source  # without a source, the first copy is read
        if source in copies:
            task = copies[source][0] or known.part.get("factor", "default")
            notes = f"top-1 in per cent on {row['num_images']:,} images of {name}, protocol {part['protocol']}"
            value, revision = round(100 * row["top1_after"], 2), part.get("revisions", {}).get(name)
            entries.append(EvalResultEntry(source, task, value, revision, notes=notes, **facts))
    return entries
