"""FSDP2: preparation of sharded training, and gathering of weights."""

import os
from copy import deepcopy

from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import Trainer

from .config import CHECKPOINTING, RobustViTConfig


def prepare_sharding(
    accelerator: Accelerator, model: nn.Module, args: RobustViTConfig, second_derivative: bool
) -> None:
    """Let FSDP2 shard a model by layers, and reject settings with which it would not train or save the same as one process.

    Args:
        second_derivative: whether the loss needs second derivatives.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise ValueError(
                "FSDP was asked for, but accelerate shards on several GPUs only, and would take DDP here: launch with "
                "another config file, see docs/launch.md."
            )
        return
    problems = {
        "FSDP1 is not supported: set `fsdp_version: 2`": plugin.fsdp_version != 2,
        "Sharded state dicts save no model: set `fsdp_state_dict_type: FULL_STATE_DICT`": (
            plugin.state_dict_type.name != "FULL_STATE_DICT"
        ),
        "Every process measures the original model, and so needs its weights: set `fsdp_cpu_ram_efficient_loading: false`": (
            plugin.cpu_ram_efficient_loading
        ),
        "FSDP's own activation checkpointing loses the recorded attentions: set `fsdp_activation_checkpointing: false`, and "
        f"give `--{CHECKPOINTING} True`": plugin.activation_checkpointing,
        "A second derivative needs weights that FSDP2 has freed before (torch 2.13): leave out `second_order`, or use DDP": (
            second_derivative
        ),
        "An adapter leaves little to shard: use DDP": hasattr(model, "peft_config"),
    }
    for problem, applies in problems.items():
        if applies:
            raise ValueError(f"{problem}.")
    if plugin.transformer_cls_names_to_wrap is None:
        # accelerate 1.15 shards patch embeddings separately, which fails within embeddings that are also sharded.
        layers = [name for name in model._no_split_modules or () if not name.endswith("Embeddings")]
        plugin.transformer_cls_names_to_wrap = layers


def gather_weights(trainer: Trainer, original: nn.Module) -> None:
    """Give each process the whole model, in a copy of the `original` one, if FSDP2 has sharded it."""
    if trainer.is_fsdp_enabled:
        whole = deepcopy(original)
        whole.load_state_dict(get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True)))
        trainer.model = whole.to(trainer.args.device)
