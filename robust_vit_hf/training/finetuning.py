"""A complete finetuning run: load, train, compare before and after, save or push."""

import time
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import set_seed

from ..data.find_images import origin_of_masks
from ..evaluation.accuracy import Accuracy, set_result
from ..evaluation.measurement import Measured, measure
from ..evaluation.results_files import TABLES_FILE, write_finetuning_results
from ..evaluation.session import Session, Side
from ..hub.upload import check_adapter_base
from ..models.image_processors import load_processor, resolve_protocol
from ..models.loading import load_model
from ..models.model_names import resolve
from ..results.run_results import Run
from ..utils.files import check_output_dir
from ..utils.stage import folder_lock
from .checkpoints import add_lora, find_checkpoint
from .config import RobustViTConfig, control_of
from .load_data import load_data
from .methods.base import check_has_map
from .options import DataArguments, ModelArguments
from .trainer import RobustViTTrainer


def finetune(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    config: RobustViTConfig,
    predictions: Path | None = None,
    originals: Path | None = None,
) -> str:
    """Finetune a model, measure it before and after, and save or push it with results and model card.

    Args:
        model_arguments, data_arguments, config: options of `robust-vit train`, see [`train_arguments`].
        predictions: folder for the predictions for each image, `<set>/before` and `<set>/after`. Not saved by default.
        originals: folder with results of original models, which several runs share. Read only if `predictions` is given.

    Returns:
        The first table of the results, as Markdown; an empty string outside the main process.
    """
    check_output_dir(Path(config.output_dir), data_arguments.dataset)
    # Only the first process locks the folder. If that fails, its error ends the others.
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

    name, rank, merge = model_arguments.model, model_arguments.lora_rank, model_arguments.merge_lora
    if config.push_to_hub and rank is not None and not merge:
        check_adapter_base(name)  # fail before training, not after
    protocol = resolve_protocol(model_arguments.protocol, name)
    original = load_model(name, model_arguments.trust_remote_code)
    processor = load_processor(name, protocol, original, model_arguments.image_size)
    check_has_map(original, config.method, config.relevance_weight)  # fail before reading data
    needs_validation, folder = config.eval_strategy != "no", Path(config.output_dir)
    train, validation, sets = load_data(data_arguments, original.config, config.seed, needs_validation, folder)

    def new_trainer(config: RobustViTConfig) -> RobustViTTrainer:
        model = deepcopy(original) if rank is None else add_lora(deepcopy(original), rank, name)
        return RobustViTTrainer(model, config, train, validation, processor)

    trainer = new_trainer(config)
    if checkpoint:
        trainer.check_checkpoint(checkpoint)
    sides = {"before": Side.of(original.to(config.device), processor, name)}
    session = Session(sides, {}, trainer.accelerator, predictions, originals, protocol).with_sets(sets)
    # Measuring draws random numbers, reading saved predictions does not: the training must be the same in both cases.
    with torch.random.fork_rng() if predictions else nullcontext():
        before = measure(session, Accuracy())
    original.cpu()
    trainer.train(resume_from_checkpoint=checkpoint)
    if merge and rank is not None:
        trainer.model = trainer.model_wrapped = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    trainer.save_model(_internal_call=True)  # do not push yet: that comes after the measurement
    trainer.save_state()
    _gather_weights(trainer, session.sides["before"].model)  # only the first process computes maps for the report
    results = [before, _measure(session, "after", trainer.model)]
    if data_arguments.control:
        control = new_trainer(control_of(config))
        control.train()
        _gather_weights(control, session.sides["before"].model)
        results.append(_measure(replace(session, folder=None), "control", control.model, relevance=False))

    settings = {
        "model": asdict(model_arguments) | {"protocol": protocol},
        "data": asdict(data_arguments),
        "training": config.to_sanitized_dict(),
        "seconds": round(trainer.time.earlier + time.time() - started, 1),
    }
    session = replace(session, settings=settings)
    table = _report(trainer, session, results) if trainer.accelerator.is_main_process else ""
    trainer.create_model_card(
        finetuned_from=resolve(name),
        dataset=data_arguments.dataset,
        masks=origin_of_masks(data_arguments.dataset),
        protocol=protocol,
    )
    if config.push_to_hub:
        try:
            trainer.push_to_hub()
        except (OSError, ValueError) as error:
            raise OSError(
                f"The run is complete, and its tables are in `{folder}/{TABLES_FILE}`, but it was not pushed: {error} "
                f"Push it with `robust-vit push {folder} {trainer.hub_model_id or 'OWNER/NAME'}`."
            ) from error
    return table


def _gather_weights(trainer: RobustViTTrainer, original: nn.Module) -> None:
    if trainer.is_fsdp_enabled:
        whole = deepcopy(original)
        whole.load_state_dict(get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True)))
        trainer.model = whole.to(trainer.args.device)


def _report(trainer: RobustViTTrainer, session: Session, results: list[dict[str, dict[str, Measured]]]) -> str:
    sets = {}
    for name, rows in session.sets.items():
        sides = {side: measured for part in results for side, measured in part[name].items()}
        sets[name] = set_result(name, rows, sides)
    train, classes = trainer.train_dataset, None
    if isinstance(train, datasets.Dataset) and "label" in train.column_names:
        classes = frozenset(train.with_format(None)["label"][:])
    after = Side.of(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class)
    session = replace(session, sides={**session.sides, "after": after})
    return write_finetuning_results(Path(trainer.args.output_dir), Run(sets, classes), session)


def _measure(session: Session, side: str, model: nn.Module, relevance: bool = True) -> dict[str, dict[str, Measured]]:
    measured = Side.of(model, session.sides["before"].processor)
    return measure(replace(session, sides={side: measured}), Accuracy(relevance=relevance))
