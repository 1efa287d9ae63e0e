"""Finetune an image classifier on images with masks, and measure it before and after. Copy the script, and change it.

The paper's recipe (`trainer/recipes/` has one for each of its models), on one device or several:

    accelerate launch trainer/train.py --config vit-b --dataset photos --output_dir runs/vit-b

Your own model, and another method (docs/train.md):

    python trainer/train.py --model my-model --dataset photos --method swap --output_dir runs/swap --push_to_hub

`photos` has the columns `image`, `mask` and `label`, and the splits `train` and `validation`.
"""

import sys
import time
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import set_seed

from robust_vit_hf import RobustViTConfig, RobustViTTrainer, load_model
from robust_vit_hf.data.find_images import origin_of_masks
from robust_vit_hf.evaluation.accuracy import Accuracy, set_result, write_finetuning_results
from robust_vit_hf.evaluation.session import Session, Side, measure, save_predictions
from robust_vit_hf.hub.upload import check_adapter_base, create_repo, push_folder
from robust_vit_hf.models.image_processors import load_processor, resolve_protocol
from robust_vit_hf.models.model_names import resolve
from robust_vit_hf.training.adapters import add_lora
from robust_vit_hf.training.checkpoints import find_checkpoint
from robust_vit_hf.training.load_data import load_data
from robust_vit_hf.training.losses import check_has_map
from robust_vit_hf.training.methods.augmentations import control_of
from robust_vit_hf.training.options import DataArguments, ModelArguments
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.files import check_output_dir
from robust_vit_hf.utils.processes import TrainingInterrupted, begin_command, leave


def finetune(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: RobustViTConfig,
    predictions: Path | None = None,
    cache: Cache | None = None,
) -> str:
    """Finetune a model, measure it before and after, and save or push it with results and model card.

    Args:
        predictions: parquet file for the predictions of each image. Not saved by default.
        cache: measurements of models, which runs share.

    Returns:
        The first table of the results, as Markdown; an empty string outside the main process.
    """
    started, folder = time.time(), Path(args.output_dir)
    name, rank = model_args.model, model_args.lora_rank
    check_output_dir(folder, data_args.dataset)
    checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    if args.push_to_hub:  # fail before training, not after
        if rank is not None and not model_args.merge_lora:
            check_adapter_base(name)
        if args.process_index == 0:
            repo_id = args.hub_model_id or folder.resolve().name
            args.hub_model_id = create_repo(repo_id, private=args.hub_private_repo, token=args.hub_token)

    set_seed(args.seed)
    protocol = resolve_protocol(model_args.protocol, name)
    original = load_model(name, model_args.trust_remote_code)
    processor = load_processor(name, protocol, original, model_args.image_size)
    check_has_map(original, args)  # fail before reading data
    train, validation, sets = load_data(data_args, original.config, args.seed, args.eval_strategy != "no")

    # Measure the original model, and train a copy.
    def make_trainer(args: RobustViTConfig) -> RobustViTTrainer:
        model = deepcopy(original)
        model = model if rank is None else add_lora(model, rank, name)
        return RobustViTTrainer(model, args, train, validation, processor)

    trainer = make_trainer(args)
    sides = {"before": Side.of(original.to(args.device), processor, name)}
    session = Session(sides, {}, trainer.accelerator, cache=cache, protocol=protocol).with_sets(sets)
    # Measuring draws random numbers, reading saved predictions does not: the training must be the same in both cases.
    with torch.random.fork_rng() if cache else nullcontext():
        results = [measure(session, Accuracy())]
    original.cpu()
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step < trainer.state.max_steps:  # nothing but SIGTERM ends it early
        raise TrainingInterrupted(trainer.state.global_step)
    if model_args.merge_lora:
        trainer.model = trainer.model_wrapped = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    trainer.save_model(_internal_call=True)  # do not push yet: that comes after the measurement
    trainer.save_state()

    # Measure the new model and, if asked for, a control: a copy trained on the same images with cross-entropy only.
    results.append(
        measure(replace(session, sides={"after": Side.of(whole(trainer, original), processor)}), Accuracy())
    )
    if data_args.control:
        control = make_trainer(control_of(args))
        control.train()
        side = {"control": Side.of(whole(control, original), processor)}
        results.append(measure(replace(session, sides=side), Accuracy(relevance=False)))

    # Write tables, pictures and the card, and push.
    settings: dict[str, Any] = {"model": asdict(model_args) | {"protocol": protocol}, "data": asdict(data_args)}
    settings |= {"training": args.to_sanitized_dict(), "seconds": round(time.time() - started, 1)}
    table = ""
    if trainer.accelerator.is_main_process:
        measured = {of: {side: m for part in results for side, m in part[of].items()} for of in session.sets}
        results_of = {of: set_result(of, rows, measured[of]) for of, rows in session.sets.items()}
        after = Side.of(trainer.accelerator.unwrap_model(trainer.model), processor)
        session = replace(session, settings=settings, sides={**session.sides, "after": after})
        if predictions:
            save_predictions(predictions, session, measured)
        table = write_finetuning_results(folder, results_of, session, trainer.training_classes())
    adapter = None if rank is None else f"LORA of rank {rank}{', merged' if model_args.merge_lora else ''}"
    facts = {"finetuned_from": resolve(name), "dataset": data_args.dataset, "protocol": protocol, "adapter": adapter}
    trainer.create_model_card(**facts, masks=origin_of_masks(data_args.dataset), revision=args.hub_revision)
    if args.push_to_hub and trainer.accelerator.is_main_process:
        to = {"private": args.hub_private_repo, "revision": args.hub_revision, "token": args.hub_token}
        try:  # unlike `trainer.push_to_hub`, without files of the folder that name local paths or show images
            push_folder(folder, args.hub_model_id, commit_message="End of training", **to)
        except (OSError, ValueError) as error:
            push = f"robust-vit push {folder} {args.hub_model_id}"
            raise OSError(f"The run is complete in `{folder}`, but was not pushed, see `{push}`: {error}") from error
    return table


def whole(trainer: RobustViTTrainer, original: nn.Module) -> nn.Module:
    """The trained model, which FSDP2 has in parts."""
    if trainer.is_fsdp_enabled:
        state = get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True))
        trainer.model = deepcopy(original).to(trainer.args.device)
        trainer.model.load_state_dict(state)
    return trainer.model


if __name__ == "__main__":
    from robust_vit_hf.cli.train import parse_arguments

    begin_command()
    print(finetune(*parse_arguments(sys.argv[1:])))
    leave(0)
