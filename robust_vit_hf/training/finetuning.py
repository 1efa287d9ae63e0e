"""The complete finetuning: load, train, compare before and after, save or push."""

import shlex
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers import PreTrainedConfig, set_seed
from transformers.utils import logging

from ..data.benchmarks import benchmarks, find_benchmark
from ..data.find_images import find_images, origin_of_masks
from ..data.label_mapping import class_names_of, classes_of_model
from ..evaluation.finetuning_results import write_report
from ..evaluation.measurements.accuracy import Accuracy, set_result
from ..evaluation.measurements.base import Measured, measure
from ..evaluation.session import Session, Side
from ..evaluation.sets import EvaluationSet, benchmark_sets, group_shares
from ..evaluation.write_results import TABLES_FILE
from ..hub.upload import check_adapter_base
from ..models.loading import load_model
from ..models.model_names import resolve
from ..models.preprocessing import load_processor, resolve_preset
from ..relevance.architectures import VisionTransformer, unwrap_pretrained
from ..results.run_results import Run
from ..utils.lock import folder_lock
from ..utils.processes import use_all_cores
from ..utils.public_names import public_settings
from .adapters import add_lora
from .checkpoints import find_checkpoint
from .config import RobustViTConfig
from .options import DataArguments, ModelArguments
from .sharding import gather_weights
from .trainer import RobustViTTrainer


logger = logging.get_logger(__name__)

# Options that only benchmarks read.
DRAWN_FROM_BENCHMARKS = ("samples_per_class", "num_classes", "class_seed")


def finetune(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    config: RobustViTConfig,
    predictions: Path | None = None,
    originals: Path | None = None,
) -> str:
    """Finetune a model, measure it before and after, and save or push it with results and model card.

    Args:
        predictions: folder for the predictions of each image, `<set>/before` and `<set>/after`; not saved by default.
        originals: folder with results of original models, shared by several runs; used if `predictions` are saved.

    Returns:
        The table of results as Markdown; an empty string outside the main process.

    Raises:
        ValueError: model, data or output folder cannot be used. Raised before the first step.
        OSError: model or data do not exist, or another process uses the `output_dir`.
        TrainingInterrupted: after SIGINT or SIGTERM during training; a checkpoint is saved.
    """
    # The first process locks the folder; its error ends the others.
    with folder_lock(Path(config.output_dir), "train") if config.process_index == 0 else nullcontext(True) as begun:
        checkpoint = find_checkpoint(config.output_dir, config.resume_from_checkpoint, begun)
        return _finetune(model_arguments, data_arguments, config, checkpoint, predictions, originals)


def _finetune(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    config: RobustViTConfig,
    checkpoint: str | None,
    predictions: Path | None,
    originals: Path | None,
) -> str:
    started = time.time()
    set_seed(config.seed)
    if config.device.type == "cpu" and config.world_size == 1:
        use_all_cores()

    if config.push_to_hub and model_arguments.lora_rank is not None and not model_arguments.merge_lora:
        check_adapter_base(model_arguments.model)  # rather than after the training
    preset = resolve_preset(model_arguments.preset, model_arguments.model)
    model_arguments = replace(model_arguments, preset=preset)
    model = _load(model_arguments)
    processor = load_processor(model_arguments.model, preset, model, model_arguments.image_size)
    train, validation, sets = load_data(data_arguments, unwrap_pretrained(model).config, config.seed)
    trainer = RobustViTTrainer(model, config, train, validation, processor)
    if checkpoint:
        trainer.check_checkpoint(checkpoint)
    original = Side.of(trainer.model, processor, model_arguments.model)
    session = Session({"before": original}, {}, trainer.accelerator, predictions, originals, preset).with_sets(sets)
    # If results may be cached, so that training does not depend on whether they were.
    with torch.random.fork_rng() if predictions else nullcontext():
        before = measure(session, Accuracy())
    trainer.train(resume_from_checkpoint=checkpoint)
    if model_arguments.merge_lora:
        trainer.merge_adapter()
    trainer.save_model(_internal_call=True)  # to avoid a push before the measurement
    trainer.save_state()
    _gather(trainer, model_arguments)  # only the first process makes maps for report and card
    results = [before, _measure(session, "after", trainer.model)]
    if data_arguments.control:
        control = RobustViTTrainer(_load(model_arguments), config.control(), train, validation, processor)
        control.train()
        _gather(control, model_arguments)
        results.append(_measure(replace(session, folder=None), "control", control.model, relevance=False))

    table = ""
    if trainer.accelerator.is_main_process:
        measured = {name: {side: found for of in results for side, found in of[name].items()} for name in session.sets}
        run = Run(
            {name: set_result(name, rows, measured[name]) for name, rows in session.sets.items()},
            _shown_classes(trainer, data_arguments.streaming),
        )
        settings = {"model": public_settings(asdict(model_arguments)), "data": public_settings(asdict(data_arguments))}
        settings |= {
            "training": config.to_sanitized_dict(),
            "seconds": round(trainer.earlier_seconds + time.time() - started, 1),
        }
        models = {"before": load_model(model_arguments.model, model_arguments.trust_remote_code)}
        models["after"] = trainer.accelerator.unwrap_model(trainer.model)
        sides = {name: Side.of(model, processor) for name, model in models.items()}
        table = write_report(Path(config.output_dir), run, replace(session, sides=sides), settings)
    _publish(trainer, model_arguments, data_arguments, config)
    return table


def _gather(trainer: RobustViTTrainer, model_arguments: ModelArguments) -> None:
    """Give each process the whole model, if FSDP2 has sharded it."""
    if trainer.is_fsdp_enabled:
        trainer.model = gather_weights(trainer.model, _load(model_arguments)).to(trainer.args.device)


def _measure(session: Session, side: str, model: nn.Module, relevance: bool = True) -> dict[str, dict[str, Measured]]:
    """Measure the accuracy of a model, as a side, on the sets of a session."""
    measured = Side.of(model, session.sides["before"].processor)
    return measure(replace(session, sides={side: measured}), Accuracy(relevance=relevance))


def _shown_classes(trainer: RobustViTTrainer, streaming: bool) -> frozenset[int] | None:
    """Classes of the training images; `None` if unknown."""
    if streaming or "label" not in trainer.train_dataset.column_names:
        return None
    return frozenset(trainer.train_dataset.with_format(None)["label"][:])


def _publish(
    trainer: RobustViTTrainer, model_arguments: ModelArguments, data_arguments: DataArguments, config: RobustViTConfig
) -> None:
    """Write the model card, and push if the config says so."""
    facts = {
        "finetuned_from": resolve(model_arguments.model),
        "dataset": data_arguments.dataset,
        "masks": origin_of_masks(data_arguments.dataset),
        "preset": model_arguments.preset,
    }
    trainer.create_model_card(**facts)
    if config.push_to_hub:
        try:
            trainer.push_to_hub()
        except (OSError, ValueError) as error:
            raise OSError(
                f"The run is complete in `{config.output_dir}`, with its tables in `{TABLES_FILE}`, but was not pushed: {error} "
                f"Push it with `robust-vit push {config.output_dir} {trainer.hub_model_id or 'OWNER/NAME'}`."
            ) from error


def load_data(
    arguments: DataArguments, model_config: PreTrainedConfig, seed: int
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset, dict[str, EvaluationSet]]:
    """Load training and validation images, with labels mapped to the model's classes, and the sets to measure: those
    of the benchmark with its classes, whose images `seed` draws, or else the test split, or the validation images. Streams are shuffled by
    `seed` within a buffer of 1000 images.

    Raises:
        ValueError: dataset and model have different classes, or there are no masks, or no labels for a control.
        OSError: the dataset does not exist.
    """
    source = arguments.dataset
    options: dict[str, Any] = {}
    if source in benchmarks():
        options = {"samples_per_class": arguments.samples_per_class, "class_seed": arguments.class_seed, "seed": seed}
        options |= {"num_classes": arguments.num_classes}
    elif unread := [
        name for name in DRAWN_FROM_BENCHMARKS if getattr(arguments, name) != getattr(DataArguments, name)
    ]:
        logger.warning(
            f"Only benchmarks take `{unread[0]}`, and `{source}` is not one: the training uses all images of `{arguments.train_split}`."
        )
    train = find_images(source, arguments.train_split, streaming=arguments.streaming, **options).rows
    if "mask" not in (train.column_names or ["mask"]):
        raise ValueError(_how_to_make_masks(arguments, model_config))
    if arguments.streaming:
        train = train.shuffle(seed)
    validation = find_images(source, arguments.eval_split, **options).rows
    benchmark = find_benchmark(classes_of_model(model_config))
    if source in benchmarks() and source != benchmark:
        raise ValueError(f"This model has other classes than {source}: name its images with --dataset.")
    if benchmark is not None and class_names_of(train.features) is None:
        raise ValueError(
            f"This model has the classes of {benchmark}, and the labels of `{source}` have no names: name another --model, "
            'or name the classes: `dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    if arguments.control and "label" not in train.column_names:
        raise ValueError("The control trains on labels, but the dataset has no column `label`: leave out --control.")
    if benchmark is not None and arguments.test_split is not None:
        raise ValueError(
            f"This model has the classes of {benchmark}, whose sets are measured: leave out --test_split."
        )
    if benchmark is not None:
        wanted = arguments.benchmark_sets
        return train, validation, benchmark_sets(benchmark, arguments.images_per_set, seed) if wanted else {}
    weights = None if arguments.streaming else group_shares(train, arguments.train_split)
    name = arguments.test_split or arguments.eval_split
    measured = validation if arguments.test_split is None else find_images(source, name).rows
    return train, validation, {name: EvaluationSet.of(measured, source=source, group_weights=weights)}


def _how_to_make_masks(arguments: DataArguments, model_config: PreTrainedConfig) -> str:
    """Error for a dataset without masks, with the commands that make them."""
    source = arguments.dataset.rstrip("/")
    masks = source if Path(source).exists() else source.rpartition("/")[2]
    images, masks = shlex.quote(source), shlex.quote(f"{masks}-masks")
    splits = " ".join(map(shlex.quote, dict.fromkeys((arguments.train_split, arguments.eval_split))))
    model = shlex.quote(model_config._name_or_path or "MODEL")
    return (
        f"`{source}` has no column `mask`, and a finetuning needs foreground masks. Make them with `robust-vit masks "
        f"tokencut --images {images} --output_dir {masks} --split {splits}`, then `robust-vit train --dataset {masks} --model "
        f"{model}`; or do it all with `robust-vit improve --model {model} --dataset {images} --output_dir runs/better`."
    )


def _load(arguments: ModelArguments) -> nn.Module:
    """Load the model, with a new adapter if a rank is given."""
    model = load_model(arguments.model, arguments.trust_remote_code)
    VisionTransformer(model)  # refuses unsupported architectures before reading data
    return model if arguments.lora_rank is None else add_lora(model, arguments.lora_rank, arguments.model)
