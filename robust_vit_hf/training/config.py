"""Config of a finetuning and of its control: the options of options.py and of the Trainer, completed by the method and checked; FSDP2."""

import os
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SchedulerType

from ..utils.privacy import public_settings
from .methods import load_method
from .options import METHOD_OPTIONS, FinetuningArguments


# Name of the option since transformers 5.23.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


@dataclass
class RobustViTConfig(FinetuningArguments, TrainingArguments):
    """Arguments of [`RobustViTTrainer`]: those of [`~transformers.TrainingArguments`], and the following ones, which
    include Trainer options with the paper's defaults.

    Args:
    """

    GROUP: ClassVar[str] = "options of transformers.Trainer"

    def __post_init__(self):
        FinetuningArguments.__post_init__(self)
        self.use_cpu |= not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
        if self.use_cpu:  # in bf16 too, and with all processes that were launched
            # transformers 5.24 sets the process group's timeout only on accelerators.
            PartialState(cpu=True, backend=self.ddp_backend, timeout=timedelta(seconds=self.ddp_timeout))
        self.load_best_model_at_end = self.load_best_model_at_end and self.eval_strategy != "no"
        TrainingArguments.__post_init__(self)
        self._n_gpu = min(self.n_gpu, 1)  # the Trainer would split batches among several
        self.do_eval = self.eval_strategy != "no"  # also in a copy of a config that evaluates
        if self.device.type == "cpu":  # the default would warn that there is no accelerator
            self.dataloader_pin_memory = False
        if "tensorboard" in self.report_to and find_spec("tensorboard") is None:
            raise ModuleNotFoundError(
                "`report_to` names TensorBoard, which is not installed: give `none`, or install it", name="tensorboard"
            )
        if getattr(self, CHECKPOINTING):
            options = dict(getattr(self, f"{CHECKPOINTING}_kwargs") or {})
            setattr(self, f"{CHECKPOINTING}_kwargs", {"use_reentrant": False} | options)
        method = load_method(self.method)
        if self.background_swap is None:
            self.background_swap = method.background_swap
        for name, unset in METHOD_OPTIONS.items():
            if getattr(self, name) is unset:
                setattr(self, name, method.DEFAULTS.get(name, unset))
            elif name not in method.DEFAULTS:
                raise ValueError(
                    f"`{name}` is not an option of the method `{self.method}`, which has {', '.join(method.DEFAULTS)}: leave it out."
                )
        for message, applies in (self._conflicts() | method.conflicts(self)).items():
            if applies:
                raise ValueError(message)

    def _conflicts(self) -> dict[str, Any]:
        """Error messages, and whether each applies: settings that would fail silently."""
        reentrant = getattr(self, CHECKPOINTING) and getattr(self, f"{CHECKPOINTING}_kwargs")["use_reentrant"]
        may_set_rate = self.head_epochs and self.learning_rate and self.lr_scheduler_type == "constant"
        return {
            "`remove_unused_columns=True` would drop the images and masks. Leave it False.": self.remove_unused_columns,
            "`hub_strategy` other than `end` uploads checkpoints without a card, and files with paths of this machine. Leave it `end`.": (
                self.push_to_hub and self.hub_strategy != HubStrategy.END
            ),
            "`torch_compile=True` loses the gradient of the logits in the attentions. Leave it False.": self.torch_compile,
            "`ddp_static_graph=True` takes the backward pass of the relevance map for that of the loss, so that gradients are wrong from the "
            "second step on. Leave it out.": self.ddp_static_graph,
            "DeepSpeed is not supported: use DDP or FSDP2, see docs/train.md.": (
                self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
            ),
            f'Reentrant checkpointing computes attentions without a graph: set `{CHECKPOINTING}_kwargs={{"use_reentrant": False}}`.': reentrant,
            "`head_epochs` freezes layers within a training, which works in one process only.": (
                self.head_epochs and self.world_size > 1
            ),
            "`head_learning_rate` needs `head_epochs` > 0, `learning_rate` > 0 and the scheduler `constant`.": (
                self.head_learning_rate is not None and not may_set_rate
            ),
            "`backgrounds` needs `background_swap` > 0, the probability of a swap.": (
                self.backgrounds is not None and not self.background_swap
            ),
        }

    def __getstate__(self) -> dict:
        return self.__dict__ | {"hub_token": None}

    def to_dict(self) -> dict:
        """The Trainer's values for logs, with absolute paths reduced to their last component."""
        return public_settings(super().to_dict())

    @property
    def needs_labels(self) -> bool:
        """Whether a target is the label; otherwise, only images and masks are needed."""
        return "label" in (self.relevance_target if self.relevance_weight != 0 else None, self.confidence_target)

    @property
    def rate_of_head(self) -> float:
        return self.learning_rate if self.head_learning_rate is None else self.head_learning_rate

    def describe(self) -> dict[str, str]:
        """Text descriptions of losses and schedule by name, for the model card."""
        schedule = SchedulerType(self.lr_scheduler_type).value
        if schedule == "constant":
            schedule = f"× {self.lr_decay_rate:g} every {self.lr_decay_every} epochs"
        described = {"method": self.method, "learning rate": f"{self.learning_rate:g}, {schedule}"}
        # Without relevance loss, its other options have no effect.
        without = ("relevance_weight", "confidence_weight", "confidence_target")
        for name in without if self.relevance_weight == 0 else METHOD_OPTIONS:
            if (value := getattr(self, name)) is not None and value is not False:
                described[name.replace("_", " ")] = f"{value:g}" if isinstance(value, float) else str(value)
        if self.head_epochs:
            described["epochs of only the head"] = f"{self.head_epochs:g}, learning rate {self.rate_of_head:g}"
        described["temperature of the confidence"] = f"{self.confidence_temperature:g}"
        pictures = "" if self.backgrounds is None else ", with pictures of a folder"
        return described | {"probability of a background swap": f"{self.background_swap:g}{pictures}"}


# Document the options here by their command line help.
RobustViTConfig.__doc__ = RobustViTConfig.__doc__.rstrip() + "".join(
    f"\n        {option.name} (*optional*, defaults to `{option.default!r}`): {option.metadata['help']}"
    for option in fields(FinetuningArguments)
)


def control_of(config: RobustViTConfig) -> RobustViTConfig:
    """Config of the control: only cross-entropy with the label, and nothing saved."""
    return replace(
        config,
        method="finetune",
        **METHOD_OPTIONS,
        confidence_temperature=1.0,
        background_swap=0.0,
        backgrounds=None,
        head_epochs=0.0,
        head_learning_rate=None,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        report_to="none",
        push_to_hub=False,
    )


def prepare_sharding(
    accelerator: Accelerator, model: nn.Module, args: RobustViTConfig, second_derivative: bool
) -> None:
    """Let FSDP2 shard a model by layers, and reject settings with which it would train or save something else."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise ValueError(
                "FSDP was asked for, but accelerate shards on several GPUs only: launch with another config file, see docs/train.md."
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
