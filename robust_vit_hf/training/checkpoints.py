"""Checkpoints: their inputs, saving, loading, and the choice of the one to resume from. Also LoRA adapters."""

import copy
import json
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from ..data.dataset_digest import dataset_identity
from ..data.stream import MaskedStream, stream_identity
from ..models.loading import BASE_FILE, model_digest
from ..models.model_names import MODELS, resolve
from ..utils.files import weights_written, write_json
from ..utils.stage import STAGE_FILE, Stage


logger = logging.get_logger(__name__)

# Settings that may differ when a run is resumed, since they do not affect its steps.
MAY_CHANGE = (
    "num_train_epochs",
    "max_steps",
    "output_dir",
    "resume_from_checkpoint",
    "run_name",
    "report_to",
    "disable_tqdm",
    "load_best_model_at_end",
    "prediction_loss_only",
    "train_batch_size",
    "per_device_train_batch_size",  # its product with the number of processes may not change
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "use_cpu",
    "trackio_space_id",
)
MAY_CHANGE_PREFIXES = ("logging_", "log_", "save_", "eval_", "do_", "push_to_hub", "hub_", "project", "ddp_")


class TrainingDiverged(ValueError):
    """A loss, a prediction or a weight became NaN or infinite."""


class CheckpointingTrainer(Trainer):
    """Trainer that resumes only from complete checkpoints, and only with the inputs they were made from."""

    @cached_property
    def _inputs(self) -> dict:
        args, streamed = self.args, isinstance(self.train_dataset, MaskedStream)
        # Processes and workers divide the rows of a stream among them, so its batches depend on their numbers.
        kept = {"dataloader_num_workers", "per_device_train_batch_size"} if streamed else set()
        settings = {
            name: value
            for name, value in args.to_sanitized_dict().items()
            if name in kept or not (name in MAY_CHANGE or name.startswith(MAY_CHANGE_PREFIXES))
        }
        settings["batch size of all processes"] = args.per_device_train_batch_size * args.world_size
        settings["FSDP2"] = bool(self.is_fsdp_enabled)  # its optimizer is saved in another format
        adapter = next(iter(getattr(self.model, "peft_config", {}).values()), None)
        inputs = {
            "settings": settings,
            "model": model_digest(self.model),
            # The order of a set differs between processes.
            "adapter": adapter and json.dumps(adapter.to_dict(), default=lambda value: sorted(map(str, value))),
            "image processor": self.processing_class.to_json_string(),
            "train dataset": identity_of(self.train_dataset),
            "validation dataset": identity_of(self.eval_dataset),
            "backgrounds": self.backgrounds and self.backgrounds.identity(),
        }
        return json.loads(json.dumps(inputs, default=str))

    def check_checkpoint(self, checkpoint: str) -> None:
        """Check that a checkpoint is complete and was made from the same inputs."""
        if Stage(Path(checkpoint), self._inputs).result() is None:
            raise ValueError(
                f"`{checkpoint}` is incomplete: a file is missing, or it was saved with `save_only_model`. Resume from a complete checkpoint."
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the Trainer, but reject NaN and infinite weights, and save the digest of the base with an adapter."""
        weights = self.model.state_dict().items()
        if bad := [name for name, value in weights if value.is_floating_point() and not value.isfinite().all()]:
            raise TrainingDiverged(
                f"After step {self.state.global_step}, weights are NaN or infinite, {len(bad)} in all, such as `{bad[0]}`, so the model was not "
                f"saved. Lower the learning rate, which is {self.args.learning_rate:g}."
            )
        folder = Path(output_dir or self.args.output_dir)
        # With an `output_dir`, this is a checkpoint, and `_save_checkpoint` does the same.
        with nullcontext() if output_dir else weights_written(folder):
            super().save_model(output_dir, _internal_call)
        if self._base_digest is not None and hasattr(self.model, "peft_config"):
            write_json(folder / BASE_FILE, {"digest": self._base_digest})

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        """As in the Trainer, but delete earlier checkpoints only when this one is complete."""
        args, folder = self.args, Path(self.args.output_dir)
        limit, args.save_total_limit = args.save_total_limit, None
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        is_stage = args.should_save and not args.save_only_model
        if is_stage:
            # First of all: a checkpoint without this file counts as one of an earlier version, and this one may be cut off.
            write_json(checkpoint / STAGE_FILE, {"inputs": self._inputs})
        try:
            with weights_written(folder):  # torch reports a full disk as an "unexpected pos"
                super()._save_checkpoint(model, trial)
        finally:
            args.save_total_limit = limit
        if is_stage:
            finish_checkpoint(checkpoint, self._inputs)
        if args.should_save:
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint, use_mtime=True)

    # Checkpoints have the parameter names of transformers 4, which only `from_pretrained` converts. The Trainer's
    # `load_state_dict(strict=False)` skips renamed weights, so a resumed run, or the best model, would have the
    # attention weights of another step (huggingface/transformers#48805).

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PreTrainedModel):
            weights = type(self.model).from_pretrained(resume_from_checkpoint).state_dict()
            set_model_state_dict(self.model, weights, options=StateDictOptions(full_state_dict=True))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # an adapter, with the names of PEFT

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def identity_of(dataset: object) -> str | int | None:
    """Identity of a table or a stream. Of another dataset, only the number of rows is known, or nothing (`None`)."""
    if isinstance(dataset, datasets.Dataset):
        return dataset_identity(dataset)
    if isinstance(dataset, MaskedStream):
        return stream_identity(dataset.dataset)
    return len(dataset) if hasattr(dataset, "__len__") else None


def finish_checkpoint(checkpoint: Path, inputs: dict) -> None:
    Stage(checkpoint, inputs).finish({}, [path.name for path in checkpoint.iterdir() if path.is_file()])


def last_checkpoint(output_dir: str) -> str | None:
    """Folder of the last complete checkpoint, if there is one."""
    steps = {}
    for path in Path(output_dir).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")  # not a number if the folder is a copy
        if step.isdecimal() and (path / STAGE_FILE).is_file() and Stage.of(path).result() is not None:
            steps[int(step)] = str(path)
    return steps[max(steps)] if steps else None


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None, begun: bool) -> str | None:
    """Find the checkpoint to resume from.

    Args:
        resume_from_checkpoint: `"last"`, a folder, or `None` for a new run.
        begun: whether a run has already written to `output_dir`.

    Returns:
        Folder of the checkpoint, or `None` to start from step 0: a new run, or one that was stopped before its first checkpoint.
    """
    folder = Path(output_dir)
    if resume_from_checkpoint is None:
        if others := [path.name for path in folder.glob("[!.]*")]:  # hidden are locks, and thumbnails
            held = "another run" if begun else f"other files, such as `{others[0]}`"
            resume = ", or continue the run with `--resume_from_checkpoint last`" if begun else ""
            raise ValueError(f"`{folder}` holds {held}. Choose another --output_dir, or delete the folder{resume}.")
        return None
    if resume_from_checkpoint != "last":
        if Path(resume_from_checkpoint).resolve().parent != folder.resolve():
            raise ValueError(f"`{resume_from_checkpoint}` is not in the output_dir `{folder}`: give `last`.")
        return resume_from_checkpoint
    if last := last_checkpoint(output_dir):
        return last
    states = folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    if not begun or any(not (path.parent / STAGE_FILE).exists() for path in states):
        raise ValueError(
            f"`{folder}` holds no run that can be resumed: none was started in it, or its checkpoints are incomplete or of an earlier "
            "version. Begin a new run in another --output_dir, without --resume_from_checkpoint."
        )
    logger.warning(f"The run in `{folder}` was stopped before its first complete checkpoint: it starts again.")
    return None


def add_lora(model: PreTrainedModel, rank: int, base: str) -> nn.Module:
    """Add a LoRA adapter to all linear layers of a model loaded from `base`, with alpha twice the rank."""
    from peft import LoraConfig

    return add_adapter(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), base)


def add_adapter(model: nn.Module, config: Any, base: str | None) -> nn.Module:
    """Add a new adapter to a model. `config` is a `PeftConfig`, and `base` the source of the model, `None` if it was built in memory."""
    from peft import get_peft_model

    adapted = get_peft_model(model, config)
    for name, module in adapted.named_modules():
        if getattr(module, "q_bias", None) is not None and hasattr(getattr(module, "qkv", None), "base_layer"):
            raise ValueError(
                f"An adapter of `{name}.qkv` would have no effect, since timm reads the weights of this layer directly: finetune all weights, "
                "or exclude this layer from the adapter."
            )
    if base is not None:
        # PEFT would name the cache folder as the base. A folder is named by its absolute path, which
        # cannot be mistaken for a Hub id and is never uploaded.
        name = resolve(base)
        is_folder = name not in MODELS and Path(name).exists()
        adapted.peft_config["default"].base_model_name_or_path = str(Path(name).resolve()) if is_folder else name
    return adapted


def base_digest(model: nn.Module) -> str | None:
    """Digest of the base of a PEFT model, which [`load_model`] checks. `None` without an adapter, or if training changes the base."""
    configs = getattr(model, "peft_config", {}).values()
    if not configs or any(getattr(config, "bias", "none") != "none" for config in configs):
        return None
    from peft.utils import ModulesToSaveWrapper

    base = copy.deepcopy(model)
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # `unload` would leave the trained copy
            base.set_submodule(name, module.original_module)
    base = base.unload()
    if {value.dtype for value in base.state_dict().values() if value.is_floating_point()} != {torch.float32}:
        return None
    return model_digest(base)
