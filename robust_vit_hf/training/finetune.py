"""The complete finetuning: load, train, compare before with after, save or push."""

import time
from dataclasses import asdict
from pathlib import Path

from torch import nn
from transformers import set_seed

from ..data.benchmarks import benchmarks, find_benchmark
from ..data.masked_dataset import check_class_names, load_masked_dataset, mask_origin
from ..evaluation.compare import Comparison
from ..evaluation.evaluate_sets import evaluate_sets
from ..evaluation.protocols import EvaluationSet, benchmark_sets
from ..evaluation.report import write_report
from ..evaluation.tables import main_table
from ..models.image_processors import load_processor
from ..models.loading import load_model
from ..models.registry import resolve
from ..relevance.architectures import attention_modules, unwrap_pretrained
from ..utils.processes import use_all_cores
from ..utils.publishable import public_settings
from .adapters import add_lora
from .arguments import DataArguments, ModelArguments
from .checkpoints import find_checkpoint
from .config import RobustViTConfig
from .trainer import RobustViTTrainer


def finetune(model_arguments: ModelArguments, data_arguments: DataArguments, config: RobustViTConfig) -> str:
    """Finetune a model, measure it before and after, and save or push it with its results and its card.

    Returns:
        The table of results, as Markdown; nothing in other processes than the main one.

    Raises:
        ValueError: model, data or output folder cannot be used. Always before the first step.
        OSError: there is no such model or data.
    """
    started = time.time()
    checkpoint = find_checkpoint(config.output_dir, config.resume_from_checkpoint)
    set_seed(config.seed)
    if config.device.type == "cpu" and config.world_size == 1:
        use_all_cores()

    model = _load(model_arguments)
    processor = load_processor(model_arguments.model, model_arguments.preset, model, model_arguments.image_size)
    options = {}
    if data_arguments.dataset in benchmarks():
        options = {"samples_per_class": data_arguments.samples_per_class, "seed": config.seed}
    train, validation = (
        load_masked_dataset(data_arguments.dataset, split, **options)
        for split in (data_arguments.train_split, data_arguments.eval_split)
    )
    class_names = unwrap_pretrained(model).config.id2label.values()
    check_class_names(train, data_arguments.dataset, class_names)
    if data_arguments.control and "label" not in train.column_names:
        raise ValueError("The control trains on labels, but the dataset has no column `label`: leave out --control.")
    if benchmark := find_benchmark(class_names):
        sets = benchmark_sets(benchmark, data_arguments.images_per_set)
    else:
        sets = {data_arguments.eval_split: EvaluationSet.of(validation, source=data_arguments.dataset)}

    trainer = RobustViTTrainer(model, config, train, validation, processor)
    accelerator = trainer.accelerator
    before = evaluate_sets(trainer.model, sets, processor, accelerator, description="before")
    trainer.train(resume_from_checkpoint=checkpoint)
    if model_arguments.merge_lora:
        trainer.merge_adapter()
    trainer.save_model(_internal_call=True)  # or else it would be pushed before it is measured
    trainer.save_state()
    after = evaluate_sets(trainer.model, sets, processor, accelerator, description="after")
    control = None
    if data_arguments.control:
        control_trainer = RobustViTTrainer(_load(model_arguments), config.control(), train, validation, processor)
        control_trainer.train()
        control = evaluate_sets(
            control_trainer.model, sets, processor, accelerator, relevance=False, description="control"
        )

    table = ""
    if accelerator.is_main_process:
        comparison = Comparison(
            before,
            after,
            control,
            [name for name, rows in sets.items() if rows.shifted],
            frozenset(train.unique("label")) if "label" in train.column_names else None,
        )
        settings = {"model": public_settings(asdict(model_arguments)), "data": public_settings(asdict(data_arguments))}
        settings |= {"training": config.to_sanitized_dict(), "seconds": round(time.time() - started, 1)}
        models = {"before": load_model(model_arguments.model, model_arguments.trust_remote_code)}
        models["after"] = accelerator.unwrap_model(trainer.model)
        write_report(Path(config.output_dir), comparison, sets, processor, models, settings)
        table = main_table(comparison.rows()).markdown()
    facts = {
        "finetuned_from": resolve(model_arguments.model),
        "dataset": data_arguments.dataset,
        "masks": mask_origin(data_arguments.dataset),
    }
    if config.push_to_hub:
        trainer.push_to_hub(**facts)  # which writes the card before it uploads
    else:
        trainer.create_model_card(**facts)
    return table


def _load(arguments: ModelArguments) -> nn.Module:
    """The model, with a new adapter if a rank is given."""
    model = load_model(arguments.model, arguments.trust_remote_code)
    attention_modules(model)  # refuses an architecture before its data are read
    return model if arguments.lora_rank is None else add_lora(model, arguments.lora_rank, arguments.model)
