"""Model cards: what a run left, as the page that the Hub shows.

A card is a function of JSON files alone: `run.json`, which the trainer writes, `results.json` of `trainer/train.py`, and
`evaluation.json`, which `python -m robust_vit_hf.card` takes from `eval/evaluate_robustness.py`.
"""

import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import logging

from .emoji_shift import SPLITS
from .evaluation.compare import MEAN_ROW
from .evaluation.published import PAPER_SETS
from .evaluation.tables import change, change_with_interval, main_table, number, percent
from .files import write_atomically
from .models import EMOJI_SHIFT
from .report import RESULTS_FILE
from .run_record import RUN_FILE


logger = logging.get_logger(__name__)

EVALUATION_FILE, CARD_FILE = "evaluation.json", "README.md"
# The pictures that belong to a file of results.
FIGURES = {
    RESULTS_FILE: {"before_after.png": "Images of these sets with the relevance of their class before and after"},
    EVALUATION_FILE: {
        "accuracy_paper.png": "Top-1 of each set under the protocol of the paper",
        "accuracy_standard.png": "Top-1 of each set under the usual protocol",
    },
}
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
# What is compared: name, whether more is better, and how it is shown.
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
TASK = {"task_type": "image-classification", "task_name": "Image classification"}
PROTOCOLS = {
    "paper": "All classes are ranked; images are resized to 256 (bilinear) and cropped to 224, or in this proportion, and "
    "normalised by 0.5",
    "standard": "The classes of the set are ranked; images are resized to 248 (bicubic) and cropped to 224, or in this "
    "proportion, and normalised as in pretraining",
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
        id=run["hub_model_id"] or f"path/to/{run['model_name']}",
        base=run["started_from"],
        at=f', revision="{run["revision"]}"' if run["revision"] else "",
        started_from=f"`{run['started_from']}`",
        bundled=run["started_from"] == EMOJI_SHIFT,
        adapter=adapter,
        own_class=run["architecture"] == "DINOv3ViTForImageClassification",
        architecture=run["architecture"],
        parameters=f"{run['num_parameters']:,}",
        num_classes=run["num_classes"],
        image_size="×".join(map(str, run["image_size"])),
        preprocessing=run["preprocessing"],
        has_control=any(row["top1_control"] is not None for _, _, rows in measured for row in rows),
        results=[{"title": title, "table": main_table(rows).markdown()} for title, _, rows in measured],
        chose_checkpoint=evaluation is None and results is not None and _chose_checkpoint(results),
        validation=run["validation"],
        figures=[
            {"file": name, "text": text} for some in FIGURES.values() for name, text in some.items() if name in figures
        ],
        worse=_what_got_worse(measured, results, evaluation),
        data=_data(run["data"]),
        training=list(run["training"].items()),
        effort=_effort(run),
    )


def write_card(folder: Path) -> None:
    """Write `README.md` of a folder from the JSON files and pictures in it. Results of other weights are left out.

    Raises:
        FileNotFoundError: it has no `run.json`.
        ValueError: its `run.json` is another program's.
    """
    if not (folder / RUN_FILE).is_file():
        raise FileNotFoundError(
            f"`{folder}` has no `{RUN_FILE}`, which `trainer.create_model_card()` and `trainer/train.py` write."
        )
    run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    measured, figures = {}, []
    for file, pictures in FIGURES.items():
        contents = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).is_file() else None
        if contents is not None and contents.get("weights", {}).get("after") != run.get("weights"):
            logger.warning(
                f"`{folder / file}` is of other weights than `{RUN_FILE}`, so the card does not tell of it."
            )
            contents = None
        measured[file] = contents
        figures += [name for name in pictures if contents is not None and (folder / name).is_file()]
    try:
        card = make_card(run, measured[RESULTS_FILE], measured[EVALUATION_FILE], tuple(figures))
    except KeyError as error:
        raise ValueError(f"`{folder / RUN_FILE}` has no {error}: it is not what the trainer writes.") from error
    write_atomically(folder / CARD_FILE, str(card))


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
        for score, (name, rises, show) in SCORES.items():
            worse = []
            for row in rows:
                before, after = row[f"{score}_before"], row[f"{score}_after"]
                if after is not None and (after < before if rises else after > before):
                    interval = f" ({change_with_interval(row)})" if score == "top1" else ""
                    worse.append(f"`{row['set']}` {show(before)} → {show(after)}{interval}")
            if worse:
                lines.append(f"{name}{where}: {', '.join(worse)}.")
        compared = [row for row in rows if row["set"] != MEAN_ROW and row["broken"] is not None]
        broken = sum(row["broken"] for row in compared)
        if broken:
            images = sum(row["num_images"] for row in compared)
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


def _chose_checkpoint(results: dict) -> bool:
    """Whether the one set that was measured is that of the validation, by which the checkpoint may have been chosen."""
    return [row["set"] for row in results["rows"]] == [results.get("settings", {}).get("data", {}).get("eval_split")]


def _data(data: dict) -> str:
    classes = data["training_classes"]
    if classes is None:
        split = "without labels"
    elif len(classes) > 30:
        split = f"of {len(classes)} classes (their ids stand in `{RUN_FILE}`)"
    else:
        split = f"of the {len(classes)} classes {', '.join(data['class_names'])}"
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
