"""Model cards: what a run left, as the page that the Hub shows.

    python -m robust_vit_hf.model_card runs/vit-base --evaluation runs/vit-base-robustness

writes `README.md` of a finetuned model again, with the results of `eval/evaluate_robustness.py` in it. A card is a function of
JSON files alone: `run.json`, which the trainer writes, `results.json` of `trainer/train.py`, and `evaluation.json`.
"""

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .architectures import unwrap_pretrained
from .emoji_shift import SPLITS
from .evaluation.compare import MEAN_ROW
from .evaluation.published import PAPER_SETS
from .evaluation.tables import change, change_with_interval, main_table, percent
from .files import public_name, write_atomically
from .models import EMOJI_SHIFT, load_model, weights_digest
from .report import RESULTS_FILE, environment
from .transforms import make_image_processor


if TYPE_CHECKING:
    from .trainer import RobustViTTrainer


RUN_FILE, EVALUATION_FILE, CARD_FILE = "run.json", "evaluation.json", "README.md"
EMISSIONS_FILE = "emissions.csv"  # of CodeCarbon, in the output_dir
FIGURES = {
    "before_after.png": "Test images with the relevance of their class before and after",
    "accuracy_paper.png": "Top-1 of each set under the protocol of the paper",
    "accuracy_standard.png": "Top-1 of each set under the usual protocol",
}
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
TASK = {"task_type": "image-classification", "task_name": "Image classification"}
PROTOCOLS = {
    "paper": "All classes are ranked, images are resized to 256 (bilinear), cropped to 224 and normalised by 0.5",
    "standard": "The classes of the set are ranked, images are resized to 248 (bicubic) and normalised as in pretraining",
}


def describe_run(
    trainer: "RobustViTTrainer",
    *,
    started_from: str | None = None,
    dataset: str | None = None,
    masks: str = "those of the data set",
    license: str | None = None,
) -> dict:
    """What a card tells of a finetuning, as JSON values: model, data, hyper-parameters, effort.

    Args:
        trainer: after its training.
        started_from: Hub id or folder of the model before; what the model was loaded from by default.
        dataset: Hub id or folder of the images.
        masks: where the masks are from.
        license: of the finetuned model; nothing by default, since it depends on that of the model before.
    """
    args, processor = trainer.args, trainer.processing_class
    model = trainer.accelerator.unwrap_model(trainer.model)
    pretrained = unwrap_pretrained(model)
    crop = processor.crop_size
    adapters = getattr(model, "peft_config", {})
    started_from = started_from or pretrained.config._name_or_path or type(pretrained).__name__
    on_hub = started_from.count("/") == 1 and not Path(started_from).exists()
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    decays = f", × {args.lr_decay_rate:g} every {args.lr_decay_every} epochs"
    training = {
        "learning rate": f"{args.learning_rate:g}{decays if args.lr_scheduler_type == 'constant' else ''}",
        "epochs": f"{args.num_train_epochs:g}",
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
        "checkpoint": "lowest validation loss" if args.load_best_model_at_end else "last",
    }
    if trainer.adapter is not None:
        kind, rank = trainer.adapter.peft_type.value, getattr(trainer.adapter, "r", None)
        training["adapter"] = f"{kind}{f' of rank {rank}' if rank else ''}{'' if adapters else ', merged'}"
    train, validation = trainer.train_dataset, trainer.eval_dataset
    labels = None
    if isinstance(train, datasets.Dataset) and "label" in train.column_names:
        labels = sorted(set(train.with_format(None)["label"]))
    return {
        "model_name": (trainer.hub_model_id or args.hub_model_id or Path(args.output_dir).resolve().name).split("/")[
            -1
        ],
        "hub_model_id": trainer.hub_model_id or args.hub_model_id,
        "started_from": public_name(started_from),
        "base_model": started_from if on_hub else "facebook/dinov2-small" if started_from == EMOJI_SHIFT else None,
        "license": license,
        "library_name": "peft" if adapters else "transformers",
        "architecture": type(pretrained).__name__,
        "num_parameters": sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
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
            "train_images": len(train),
            "validation_images": 0 if validation is None else len(validation),
            "training_classes": labels,
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


def make_card(
    run: dict, results: dict | None = None, evaluation: dict | None = None, figures: tuple = ()
) -> ModelCard:
    """Model card with metadata (`model-index` among them) of what was measured, and of nothing else.

    Args:
        run: what [`RobustViTTrainer`] says of itself, see [`describe_run`].
        results: `results.json` of `trainer/train.py`.
        evaluation: `results.json` of `eval/evaluate_robustness.py`, which takes the place of `results` in what both tell.
        figures: names of the pictures of [`FIGURES`] that lie beside the card.
    """
    measured = _measured_rows(run, results, evaluation)
    adapter = run["library_name"] == "peft"
    data = ModelCardData(
        license=run["license"],
        library_name=run["library_name"],
        pipeline_tag="image-classification",
        base_model=run["base_model"],
        datasets=[run["data"]["dataset"]] if run["data"]["dataset_on_hub"] else None,
        tags=["image-classification", "robust-vit-hf", "robustness", "explainability", "arxiv:2206.01161"],
        metrics=["accuracy"] if measured else None,
        model_name=run["model_name"],
        eval_results=_eval_results(measured, run["data"]["dataset"]) or None,
        co2_eq_emissions=_emissions(run),
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=run["model_name"],
        id=run["hub_model_id"] or run["model_name"],
        base=run["base_model"] or run["started_from"],
        started_from=f"`{run['started_from']}`",
        adapter=adapter,
        own_class=run["architecture"] == "DINOv3ViTForImageClassification",
        architecture=run["architecture"],
        parameters=f"{run['num_parameters']:,}",
        num_classes=run["num_classes"],
        image_size="×".join(map(str, run["image_size"])),
        preprocessing=run["preprocessing"],
        has_control=any(row["top1_control"] is not None for _, _, rows in measured for row in rows),
        results=[{"title": title, "table": main_table(rows).markdown()} for title, _, rows in measured],
        validation=run["validation"],
        figures=[{"file": name, "text": text} for name, text in FIGURES.items() if name in figures],
        worse=_what_got_worse(measured, results, evaluation),
        data=_data(run["data"]),
        training=list(run["training"].items()),
        effort=_effort(run),
    )


def write_card(folder: Path) -> None:
    """Write `README.md` of a folder from the JSON files and pictures in it.

    Raises:
        FileNotFoundError: it has no `run.json`.
    """
    if not (folder / RUN_FILE).is_file():
        raise FileNotFoundError(
            f"`{folder}` has no `{RUN_FILE}`, which `trainer.create_model_card()` and `trainer/train.py` write."
        )
    files = [folder / name for name in (RUN_FILE, RESULTS_FILE, EVALUATION_FILE)]
    contents = [json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None for file in files]
    figures = tuple(name for name in FIGURES if (folder / name).is_file())
    write_atomically(folder / CARD_FILE, str(make_card(*contents, figures)))


# -- Parts of a run ---------------------------------------------------------------------------------------------------


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
    logs = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if not logs:
        return None
    kept = min(logs, key=lambda entry: entry["eval_loss"]) if trainer.args.load_best_model_at_end else logs[-1]
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


# -- Parts of a card --------------------------------------------------------------------------------------------------


def _measured_rows(run: dict, results: dict | None, evaluation: dict | None) -> list[tuple[str, str, list[dict]]]:
    """Heading, protocol and rows of each table; rows are those of `Comparison.rows`."""
    if evaluation is not None:
        return [
            (f"Protocol `{name}`. {PROTOCOLS[name]}", name, part["rows"])
            for name, part in evaluation["protocols"].items()
        ]
    if results is not None:
        return [(f"All classes are ranked; {run['preprocessing']}", run["preset"], results["rows"])]
    return []


def _eval_results(measured: list[tuple[str, str, list[dict]]], own_data: str | None) -> list[EvalResult]:
    entries = []
    for _, protocol, rows in measured:
        for row in rows:
            name = row["set"]
            if name == MEAN_ROW:
                continue
            data = name if name in PAPER_SETS else EMOJI_SHIFT if name in SPLITS else own_data or "own images"
            for side, metric in (("after", "top-1"), ("before", "top-1 before finetuning")):
                if row[f"top1_{side}"] is not None:
                    entries.append(
                        EvalResult(
                            **TASK,
                            dataset_type=data,
                            dataset_name=f"{data if data == name else f'{data}, {name}'} ({protocol} protocol)",
                            dataset_config=protocol,
                            dataset_split=name,
                            metric_type="accuracy",
                            metric_name=metric,
                            metric_value=round(row[f"top1_{side}"], 4),
                        )
                    )
    return entries


def _what_got_worse(measured: list, results: dict | None, evaluation: dict | None) -> list[str]:
    lines = []
    for _, protocol, rows in measured:
        where = f" under protocol `{protocol}`" if len(measured) > 1 else ""
        for row in rows:
            before, after = row["top1_before"], row["top1_after"]
            if after is not None and after < before:
                lines.append(
                    f"Top-1 on `{row['set']}`{where}: {percent(before)} before, {percent(after)} after "
                    f"({change_with_interval(row)})."
                )
        for row in rows:
            before, after = row["ece_before"], row["ece_after"]
            if after is not None and after > before + 0.0005:
                lines.append(
                    f"Expected calibration error on `{row['set']}`{where}: {percent(before)} % before, {percent(after)} % after."
                )
        broken = sum(row["broken"] or 0 for row in rows if row["set"] != MEAN_ROW)
        if broken:
            images = sum(
                row["num_images"] for row in rows if row["broken"] is not None and "mean of" not in row["set"]
            )
            lines.append(
                f"{broken:,} of {images:,} test images{where} were classified rightly before and are not now."
            )
    if evaluation is not None:
        groups = [(f" under protocol `{n}`", part["class_groups"]) for n, part in evaluation["protocols"].items()]
    else:
        groups = [("", results["class_groups"])] if results is not None else []
    for where, rows in groups:
        for kind, text in (("training", "shown in training"), ("other", "not shown in training")):
            chosen = [row for row in rows if row["classes"] == kind and row.get("top1_after") is not None]
            if chosen:
                before, after = (
                    sum(row[f"top1_{side}"] for row in chosen) / len(chosen) for side in ("before", "after")
                )
                if after < before:
                    lines.append(
                        f"Top-1 of the classes {text}, mean of the sets{where}: {percent(before)} before, {percent(after)} "
                        f"after ({change(before, after)})."
                    )
    return lines


def _data(data: dict) -> str:
    classes = data["training_classes"]
    if classes is None:
        split = "without labels"
    elif len(classes) > 30:
        split = f"of {len(classes)} classes (their ids stand in `{RUN_FILE}`)"
    else:
        split = f"of the {len(classes)} classes {', '.join(map(str, classes))}"
    validation = f", validated on {data['validation_images']} others" if data["validation_images"] else ""
    source = data["dataset"] or "a data set that has no name on the Hub"
    return f"{data['train_images']} images {split}{validation}, from `{source}`. Masks: {data['masks']}."


def _effort(run: dict) -> str:
    parts = [f"Hardware: {run['hardware']}."]
    if run["seconds"] is not None:
        since = " since it was resumed" if run["resumed"] else ""
        parts.append(f"Training took {run['seconds'] / 60:.1f} minutes{since}, {run['steps']} steps.")
    if run["energy_kwh"] is not None:
        parts.append(f"Energy, by CodeCarbon: {run['energy_kwh']:.3g} kWh.")
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in run["versions"].items()) + ".")
    return " ".join(parts)


def _emissions(run: dict) -> dict | None:
    if run["emissions_kg"] is None:
        return None
    return {"emissions": 1000 * run["emissions_kg"], "source": "CodeCarbon", "training_type": "fine-tuning"}  # grams


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m robust_vit_hf.model_card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="finetuned model, with the run.json of its training")
    parser.add_argument("--evaluation", type=Path, help="output_dir of eval/evaluate_robustness.py for this model")
    arguments = parser.parse_args(argv)
    if arguments.evaluation is not None:
        evaluation = json.loads((arguments.evaluation / RESULTS_FILE).read_text(encoding="utf-8"))
        if not evaluation.get("protocols") or evaluation["settings"]["compare"] is None:
            raise ValueError(
                f"`{arguments.evaluation}` holds no comparison of two models: run eval/evaluate_robustness.py with --compare."
            )
        if evaluation["weights"]["after"] != weights_digest(load_model(str(arguments.folder))):
            raise ValueError(
                f"`{arguments.evaluation}` measured other weights than those in `{arguments.folder}`: run "
                f"`eval/evaluate_robustness.py --compare {arguments.folder}` again."
            )
        kept = {key: evaluation[key] for key in ("paper_model", "versions", "hardware", "protocols")}
        write_atomically(arguments.folder / EVALUATION_FILE, json.dumps(kept, indent=2) + "\n")
        for protocol in evaluation["protocols"]:
            plot = arguments.evaluation / "plots" / protocol / "accuracy.png"
            if plot.is_file():
                shutil.copy(plot, arguments.folder / f"accuracy_{protocol}.png")
    write_card(arguments.folder)
    print(arguments.folder / CARD_FILE)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
