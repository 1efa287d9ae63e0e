"""Hyper-parameters of the finetuning."""

import os
from dataclasses import MISSING, dataclass, fields, replace
from datetime import timedelta
from importlib.util import find_spec
from typing import ClassVar, Self

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from ..utils.options import COUNT, NOT_NEGATIVE, POSITIVE, SEED, SHARE, Range
from ..utils.public_names import public_settings
from .methods import load_method
from .options import METHOD_OPTIONS, FinetuningArguments


# Name of the option since transformers 5.23.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


# Options of the Trainer that change nothing here, and why. They are refused, since a run would look as if they had.
NOT_HONOURED = {
    "restore_callback_states_from_checkpoint": "a resumed run restores the state of this package's callbacks by itself",
    "label_smoothing_factor": "the losses are those of the method",
    "neftune_noise_alpha": "it adds noise to the embeddings of words",
    "use_liger_kernel": "its kernels are those of language models",
    "liger_kernel_config": "its kernels are those of language models",
    "include_num_input_tokens_seen": "images have no input tokens to count",
    "length_column_name": "images have no lengths to group by",
    "use_cache": "it is that of generating text",
    "label_names": "labels are `labels`",
    "do_train": "the command and the method that is called say what is done",
    "do_predict": "the command and the method that is called say what is done",
    "hub_always_push": "checkpoints are not pushed",
    "logging_nan_inf_filter": "`on_nan` says what happens at such losses",
    "average_tokens_across_devices": "losses are means over images",
    "enable_jit_checkpoint": "a signal saves a checkpoint by itself",
}
# Optimizers to which the Trainer does not pass `optim_args`.
WITHOUT_OPTIM_ARGS = ("adafactor", "adamw_torch", "adamw_torch_fused", "adamw_torch_npu_fused", "adamw_torch_xla")
# Options of the schedule by those schedulers of the Trainer that do not take them.
NOT_OF_SCHEDULER = {
    "warmup_steps": ("constant", "reduce_lr_on_plateau", "greedy"),
    "lr_scheduler_kwargs": ("constant", "constant_with_warmup"),
    **dict.fromkeys(("lr_decay_rate", "lr_decay_every"), tuple({kind.value for kind in SchedulerType} - {"constant"})),
}


@dataclass
class RobustViTConfig(FinetuningArguments, TrainingArguments):
    """Arguments of [`RobustViTTrainer`]: those of [`~transformers.TrainingArguments`], and the following ones, which
    include Trainer options with the paper's defaults.

    Args:
    """

    GROUP: ClassVar[str] = "options of transformers.Trainer"
    RANGES: ClassVar[dict[str, Range]] = {  # of its numbers
        **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), COUNT),
        **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps", "torch_empty_cache_steps"), COUNT),
        **dict.fromkeys(("dataloader_prefetch_factor", "ddp_timeout", "ddp_bucket_cap_mb"), COUNT),
        **dict.fromkeys(("eval_steps", "save_steps", "adam_epsilon"), POSITIVE),
        **dict.fromkeys(("warmup_steps", "eval_delay", "dataloader_num_workers", "neftune_noise_alpha"), NOT_NEGATIVE),
        **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), SHARE),
        **dict.fromkeys(("seed", "data_seed"), SEED),
        "max_steps": Range(-1),  # -1 for none
    }

    def __post_init__(self):
        FinetuningArguments.__post_init__(self)
        if self.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU"):
            # transformers 5.24 sets the process group's timeout only on accelerators.
            PartialState(cpu=True, backend=self.ddp_backend, timeout=timedelta(seconds=self.ddp_timeout))
        TrainingArguments.__post_init__(self)
        self.do_eval = self.eval_strategy != "no"  # also in a copy of a config that evaluates
        if (launched := int(os.environ.get("WORLD_SIZE", 1))) > self.world_size:
            raise ValueError(
                f"{launched} processes were launched, but this one found no GPU and would train alone: give `use_cpu=True` to "
                "train together on CPUs."
            )
        self._take_options_of_the_method()
        self._refuse_options_without_effect()
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"`hub_strategy` {self.hub_strategy.value} uploads checkpoints without a card, and files with paths of this "
                "machine. Leave it `end`."
            )
        if "tensorboard" in self.report_to and find_spec("tensorboard") is None:
            raise ModuleNotFoundError(
                "`report_to` names TensorBoard, which is not installed: give `none`, or install it", name="tensorboard"
            )
        if self.torch_compile:
            raise ValueError(
                "`torch_compile=True` makes attentions and logits sibling outputs of one compiled function, so that the "
                "gradient of one in the other does not exist. Leave it False."
            )
        if self.head_epochs and self.relevance_weight:
            raise ValueError(
                "`head_epochs` freezes the layers whose attention the relevance loss trains: leave it 0, or set "
                "`relevance_weight=0`."
            )
        if self.head_epochs and self.world_size > 1:
            raise ValueError("`head_epochs` freezes layers within a training, which works in one process only.")
        if self.head_learning_rate and not self.learning_rate:
            raise ValueError(
                "`head_learning_rate` is reached by a factor of `learning_rate`, which is 0: give a small one."
            )
        if self.head_learning_rate is not None and (not self.head_epochs or self.lr_scheduler_type != "constant"):
            raise ValueError(
                "`head_learning_rate` is that of the `head_epochs`, with the scheduler `constant`: give both, or leave it out."
            )
        if self.background_swap and self.backgrounds is None and self.train_batch_size * self.world_size == 1:
            raise ValueError(
                "`background_swap` takes the background of another image of the batch, and a batch has one image: give "
                "`per_device_train_batch_size` 2 or more, or a folder of `backgrounds`."
            )
        if self.backgrounds is not None and not self.background_swap:
            raise ValueError(
                "`backgrounds` are those of `background_swap`, which is 0: give the probability of a swap."
            )
        if self.max_steps == 0:
            raise ValueError("Expected `max_steps` ≥ 1, or -1 for all steps of `num_train_epochs`, but got 0.")
        if self.device.type == "cpu":  # the default would warn that there is no accelerator
            self.dataloader_pin_memory = False
        if self.on_nan == "skip" and self.gradient_accumulation_steps > 1 and self.world_size > 1:
            raise ValueError(
                "`on_nan='skip'` is not supported with `gradient_accumulation_steps` on several processes: the batch that is left out "
                "may be the one whose backward pass adds up their gradients."
            )
        if self.on_nan == "skip" and self.fp16:
            raise ValueError(
                "`on_nan='skip'` is not supported with `fp16`, whose loss scale needs a gradient: use `bf16`."
            )
        if self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            raise ValueError("DeepSpeed is not supported: use DDP or FSDP2, see docs/launch.md.")
        if self.ddp_static_graph:
            raise ValueError(
                "`ddp_static_graph=True` takes the backward pass of the relevance map for that of the loss, so that gradients "
                "are wrong from the second step on. Leave it out."
            )
        if getattr(self, CHECKPOINTING):
            options = dict(getattr(self, f"{CHECKPOINTING}_kwargs") or {})
            setattr(self, f"{CHECKPOINTING}_kwargs", options)
            if options.setdefault("use_reentrant", False):
                raise ValueError(
                    "Reentrant activation checkpointing computes attentions without a graph. "
                    f'Set `{CHECKPOINTING}_kwargs={{"use_reentrant": False}}`.'
                )

    def _refuse_options_without_effect(self) -> None:
        """Refuse options in [`NOT_HONOURED`] and [`NOT_OF_SCHEDULER`], and those that this device or data have not."""
        declared = {option.name: option for option in fields(self)}  # releases of transformers have other options

        def is_given(name: str) -> bool:
            option = declared.get(name)
            unset = option and (option.default if option.default_factory is MISSING else option.default_factory())
            return option is not None and getattr(self, name) not in (unset, None)

        for name, why in NOT_HONOURED.items():
            if is_given(name):
                raise ValueError(f"`{name}` has no effect here, since {why}: leave it out.")
        scheduler = SchedulerType(self.lr_scheduler_type).value
        for name, schedulers in NOT_OF_SCHEDULER.items():
            if is_given(name) and scheduler in schedulers:
                raise ValueError(
                    f"`{name}` has no effect with the scheduler `{scheduler}`: leave it out, or name another `lr_scheduler_type`."
                )
        optimizer = OptimizerNames(self.optim).value
        if self.optim_args and optimizer in WITHOUT_OPTIM_ARGS:
            raise ValueError(
                f"`optim_args` has no effect with the optimizer `{optimizer}`: leave it out, or name another `optim`."
            )
        if str(getattr(self, "train_sampling_strategy", "random")) in ("group_by_length", "batch_rebalance"):
            raise ValueError("`train_sampling_strategy` groups by length, which images do not have: leave it out.")
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("`fp16` has no effect on CPUs: give `bf16=True`, or leave it out.")

    def _take_options_of_the_method(self) -> None:
        """Set the method's defaults, and refuse options of other methods."""
        defaults = load_method(self.method).DEFAULTS
        for name, unset in METHOD_OPTIONS.items():
            if getattr(self, name) is unset:
                setattr(self, name, defaults.get(name, unset))
            elif name not in defaults:
                raise ValueError(
                    f"`{name}` is not an option of the method `{self.method}`, which has {', '.join(defaults)}: leave it out."
                )
        # GradMask and RRR; as released, their penalty has no gradient.
        trains_by_pixels = (
            self.background_weight and "relevance_weight" not in defaults and not self.released_gradients
        )
        parts = [getattr(self, name) for name in ("background_weight", "foreground_weight") if name in defaults]
        trains_by_maps = self.relevance_weight and (any(parts) or not parts)
        if not (trains_by_maps or self.confidence_weight or trains_by_pixels):
            raise ValueError(
                f"All weights of the method `{self.method}` are 0, so that nothing would be trained: give one above 0."
            )
        if self.background_swap > 0 and self.confidence_weight > 0 and self.confidence_target == "prediction":
            raise ValueError(
                "`background_swap` with `confidence_target='prediction'` would teach the shortcut: on an image with a swapped "
                "background, the prediction of a model that looks at the background is the background's class. Set "
                "`confidence_target` to `original` or `label`."
            )

    def __getstate__(self) -> dict:
        """State for `training_args.bin`, without tokens."""
        return self.__dict__ | {"hub_token": None}

    def to_dict(self) -> dict:
        """The Trainer's values for logs, with absolute paths reduced to their last component."""
        return public_settings(super().to_dict())

    @property
    def needs_labels(self) -> bool:
        """Whether a target is the label; otherwise, only images and masks are needed."""
        return "label" in (self.relevance_target if self.relevance_weight != 0 else None, self.confidence_target)

    def control(self) -> Self:
        """Config of the control: only cross-entropy with the label, without evaluation, checkpoints and push."""
        return replace(
            self,
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

    @property
    def rate_of_head(self) -> float:
        """Initial learning rate of the `head_epochs`."""
        return self.learning_rate if self.head_learning_rate is None else self.head_learning_rate

    def describe(self) -> dict[str, str]:
        """Text descriptions of losses and schedule by name, for the model card."""
        schedule = SchedulerType(self.lr_scheduler_type).value
        if schedule == "constant":
            schedule = f"× {self.lr_decay_rate:g} every {self.lr_decay_every} epochs"
        described = {"method": self.method, "learning rate": f"{self.learning_rate:g}, {schedule}"}
        for text, names in {
            "weights: relevance, confidence": ("relevance_weight", "confidence_weight"),
            "weights: background, foreground": ("background_weight", "foreground_weight"),
            "distance of relevance and mask, mean over": ("relevance_distance", "mean_over"),
            "classes: of the relevance, of the confidence": ("relevance_target", "confidence_target"),
            "first layer of the relevance": ("start_layer",),
        }.items():
            values = [getattr(self, name) for name in names]
            if any(value is not None for value in values):
                described[text] = ", ".join(
                    "–" if value is None else value if isinstance(value, str) else f"{value:g}" for value in values
                )
        if self.head_epochs:
            described["epochs of the head alone"] = f"{self.head_epochs:g}, learning rate {self.rate_of_head:g}"
        for name in ("second_order", "released_gradients"):
            if getattr(self, name):
                described["gradients"] = name.replace("_", " ")
        return described | {
            "temperature of the confidence": f"{self.confidence_temperature:g}",
            "probability of a background swap": f"{self.background_swap:g}"
            + ("" if self.backgrounds is None else ", with pictures of a folder"),
        }


# Document the options here by their command line help.
RobustViTConfig.__doc__ = RobustViTConfig.__doc__.rstrip() + "".join(
    f"\n        {option.name} (*optional*, defaults to `{option.default!r}`): {option.metadata['help']}"
    for option in fields(FinetuningArguments)
)
