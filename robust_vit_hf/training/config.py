"""Configuration of a finetuning run and of its control: options of the method and of the Trainer, with defaults and checks. Also FSDP2."""

import os
from dataclasses import dataclass, replace
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
    """Arguments of [`RobustViTTrainer`]: those of [`~transformers.TrainingArguments`], some with the paper's defaults, and
    those of [`FinetuningArguments`], which `robust-vit train --help_all` describes."""

    GROUP: ClassVar[str] = "options of transformers.Trainer"

    def __post_init__(self):
        FinetuningArguments.__post_init__(self)
        self.use_cpu |= not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
        if self.use_cpu:
            # transformers 5.24 sets the timeout of the process group only on accelerators.
            PartialState(cpu=True, backend=self.ddp_backend, timeout=timedelta(seconds=self.ddp_timeout))
        self.load_best_model_at_end = self.load_best_model_at_end and self.eval_strategy != "no"
        TrainingArguments.__post_init__(self)
        self._n_gpu = min(self.n_gpu, 1)  # the Trainer would split batches among several GPUs
        self.do_eval = self.eval_strategy != "no"  # `replace` copies it from a config that evaluates
        if self.device.type == "cpu":  # otherwise torch warns that there is no accelerator
            self.dataloader_pin_memory = False
        if "tensorboard" in self.report_to and find_spec("tensorboard") is None:
            raise ModuleNotFoundError(
                "`report_to` names TensorBoard, which is not installed: set `report_to` to `none`, or install it",
                name="tensorboard",
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
                    f"`{name}` is not an option of the method `{self.method}`, whose options are {', '.join(method.DEFAULTS)}. Leave it out."
                )
        for message, applies in (self._conflicts() | method.conflicts(self)).items():
            if applies:
                raise ValueError(message)

    def _conflicts(self) -> dict[str, Any]:
        """Error messages for settings with which training would silently do something else, and whether each applies."""
        reentrant = getattr(self, CHECKPOINTING) and getattr(self, f"{CHECKPOINTING}_kwargs")["use_reentrant"]
        may_set_rate = self.head_epochs and self.learning_rate and self.lr_scheduler_type == "constant"
        return {
            "`remove_unused_columns=True` would remove the images and masks. Set it to False.": self.remove_unused_columns,
            "A `hub_strategy` other than `end` would upload checkpoints without a card, and files with local paths. Set it to `end`.": (
                self.push_to_hub and self.hub_strategy != HubStrategy.END
            ),
            "A compiled model gives no gradients with respect to its attentions. Set `torch_compile` to False.": self.torch_compile,
            "With `ddp_static_graph=True`, DDP mistakes the backward pass of the relevance map for the one of the loss, and gradients are "
            "wrong from the second step on. Leave it out.": self.ddp_static_graph,
            "DeepSpeed is not supported. Use DDP or FSDP2, see docs/train.md.": (
                self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
            ),
            f'Reentrant checkpointing gives attentions without gradients. Set `{CHECKPOINTING}_kwargs={{"use_reentrant": False}}`.': reentrant,
            "`head_epochs` works in one process only, since it freezes layers during training. Start one process, or leave it out.": (
                self.head_epochs and self.world_size > 1
            ),
            "`head_learning_rate` needs `head_epochs` > 0, `learning_rate` > 0 and the scheduler `constant`. Set these, or leave it out.": (
                self.head_learning_rate is not None and not may_set_rate
            ),
            "`backgrounds` needs `background_swap` > 0, the probability that an image gets one. Set it, or leave `backgrounds` out.": (
                self.backgrounds is not None and not self.background_swap
            ),
        }

    def __getstate__(self) -> dict:
        return self.__dict__ | {"hub_token": None}

    def to_dict(self) -> dict:
        """Settings for logs, as in the Trainer, with paths reduced to their last component."""
        return public_settings(super().to_dict())

    @property
    def needs_labels(self) -> bool:
        """Whether a loss needs labels, and not only images and masks."""
        return "label" in (self.relevance_target if self.relevance_weight != 0 else None, self.confidence_target)

    @property
    def rate_of_head(self) -> float:
        return self.learning_rate if self.head_learning_rate is None else self.head_learning_rate

    def describe(self) -> dict[str, str]:
        """Losses and schedule for the model card: text by name."""
        schedule = SchedulerType(self.lr_scheduler_type).value
        if schedule == "constant":
            schedule = f"× {self.lr_decay_rate:g} every {self.lr_decay_every} epochs"
        described = {"method": self.method, "learning rate": f"{self.learning_rate:g}, {schedule}"}
        # Without a relevance loss, its other options have no effect.
        without = ("relevance_weight", "confidence_weight", "confidence_target")
        for name in without if self.relevance_weight == 0 else METHOD_OPTIONS:
            if (value := getattr(self, name)) is not None and value is not False:
                described[name.replace("_", " ")] = f"{value:g}" if isinstance(value, float) else str(value)
        if self.head_epochs:
            described["epochs of only the head"] = f"{self.head_epochs:g}, learning rate {self.rate_of_head:g}"
        described["temperature of the confidence"] = f"{self.confidence_temperature:g}"
        pictures = "" if self.backgrounds is None else ", with pictures of a folder"
        return described | {"probability of a background swap": f"{self.background_swap:g}{pictures}"}


def control_of(config: RobustViTConfig) -> RobustViTConfig:
    """Configuration of the control: cross-entropy with the label only. Nothing is saved."""
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
        report_to="none",
        push_to_hub=False,
    )


def prepare_sharding(
    accelerator: Accelerator, model: nn.Module, args: RobustViTConfig, second_derivative: bool
) -> None:
    """Make FSDP2 shard a model by layers. Reject settings with which it would train or save something else."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise ValueError(
                "The launcher asks for FSDP, but accelerate shards only on several GPUs. Launch with another config file, see docs/train.md."
            )
        return
    problems = {
        "FSDP1 is not supported: set `fsdp_version: 2`": plugin.fsdp_version != 2,
        "A sharded state dict cannot be saved as a model: set `fsdp_state_dict_type: FULL_STATE_DICT`": (
            plugin.state_dict_type.name != "FULL_STATE_DICT"
        ),
        "Every process needs the weights of the original model, to measure it: set `fsdp_cpu_ram_efficient_loading: false`": (
            plugin.cpu_ram_efficient_loading
        ),
        "The activation checkpointing of FSDP discards the recorded attentions: set `fsdp_activation_checkpointing: false`, and "
        f"give `--{CHECKPOINTING} True`": plugin.activation_checkpointing,
        "A second derivative needs weights that FSDP2 has already freed (torch 2.13): leave out `second_order`, or use DDP": (
            second_derivative
        ),
        "FSDP2 cannot be used with an adapter, which leaves little to shard: use DDP": hasattr(model, "peft_config"),
    }
    for problem, applies in problems.items():
        if applies:
            raise ValueError(f"{problem}.")
    if plugin.transformer_cls_names_to_wrap is None:
        # accelerate 1.15 would shard the patch embeddings too, which fails since the embeddings around them are also sharded.
        layers = [name for name in model._no_split_modules or () if not name.endswith("Embeddings")]
        plugin.transformer_cls_names_to_wrap = layers
