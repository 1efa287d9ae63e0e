"""Checkpoints of a run: stages that say what they were made from, and the choice of the one to resume from."""

import json
import re
from pathlib import Path

import datasets
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..data.dataset_digest import dataset_identity
from ..data.stream import MaskedStream, stream_identity
from ..models.model_digest import model_digest
from ..utils.stage import STAGE_FILE, Stage


logger = logging.get_logger(__name__)

# Settings that may change on resuming, since they do not affect steps.
MAY_CHANGE = (
    "num_train_epochs",
    "max_steps",
    "output_dir",
    "resume_from_checkpoint",
    "run_name",
    "report_to",
    "disable_tqdm",
    "relevance_strip_steps",
    "load_best_model_at_end",
    "prediction_loss_only",
    "train_batch_size",
    "per_device_train_batch_size",  # but not its product with the number of processes
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "use_cpu",
    "trackio_space_id",
)
MAY_CHANGE_PREFIXES = ("logging_", "log_", "save_", "eval_", "do_", "push_to_hub", "hub_", "project", "ddp_")


def run_inputs(trainer: Trainer) -> dict:
    """What the steps of a [`RobustViTTrainer`] depend on, before its first step, as JSON values."""
    args, streamed = trainer.args, isinstance(trainer.train_dataset, MaskedStream)
    # Processes and workers share the rows of a stream, so batches depend on their numbers.
    kept = {"dataloader_num_workers", "per_device_train_batch_size"} if streamed else set()
    settings = {
        name: value
        for name, value in args.to_sanitized_dict().items()
        if name in kept or not (name in MAY_CHANGE or name.startswith(MAY_CHANGE_PREFIXES))
    }
    settings["batch size of all processes"] = args.per_device_train_batch_size * args.world_size
    settings["FSDP2"] = bool(trainer.is_fsdp_enabled)  # its optimizer is saved in another format
    adapter = next(iter(getattr(trainer.model, "peft_config", {}).values()), None)
    inputs = {
        "settings": settings,
        "model": model_digest(trainer.model),
        # Sets are ordered differently in each process.
        "adapter": adapter and json.dumps(adapter.to_dict(), default=lambda value: sorted(map(str, value))),
        "image processor": trainer.processing_class.to_json_string(),
        "train dataset": identity_of(trainer.train_dataset),
        "validation dataset": identity_of(trainer.eval_dataset),
        "backgrounds": trainer.backgrounds and trainer.backgrounds.identity(),
    }
    return json.loads(json.dumps(inputs, default=str))


def identity_of(dataset: object) -> str | int | None:
    """Identity of a table or stream; for other datasets, only the number of rows, if any."""
    if isinstance(dataset, datasets.Dataset):
        return dataset_identity(dataset)
    if isinstance(dataset, MaskedStream):
        return stream_identity(dataset.dataset)
    return len(dataset) if hasattr(dataset, "__len__") else None


def finish_checkpoint(checkpoint: Path, inputs: dict) -> None:
    """Mark a checkpoint as complete, with all its files."""
    Stage(checkpoint, inputs).finish({}, [path.name for path in checkpoint.iterdir() if path.is_file()])


def check_checkpoint(checkpoint: Path, inputs: dict) -> None:
    """Refuse to resume from a checkpoint that is incomplete, or was made from other inputs, see [`OtherInputs`]."""
    if Stage(checkpoint, inputs).result() is None:
        raise ValueError(
            f"`{checkpoint}` lacks a file, or was saved with `save_only_model`: resume from a complete checkpoint."
        )


def last_checkpoint(output_dir: str) -> str | None:
    """The complete checkpoint with the highest step."""
    steps = {}
    for path in Path(output_dir).glob("checkpoint-*"):
        is_copy = re.fullmatch(r"checkpoint-\d+", path.name) is None
        if not is_copy and (path / STAGE_FILE).is_file() and Stage.of(path).result() is not None:
            steps[int(path.name.removeprefix("checkpoint-"))] = str(path)
    return steps[max(steps)] if steps else None


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None, begun: bool) -> str | None:
    """Folder of the checkpoint to resume from: the `"last"`, or the one given; `None` to start from step 0, as does a run stopped before
    its first one. `begun` says whether a run has already written to `output_dir`."""
    folder = Path(output_dir)
    others = [path.name for path in folder.glob("*") if path.suffix != ".lock"]
    if resume_from_checkpoint is None and others:
        held = "another run" if begun else f"other files, such as `{others[0]}`"
        resume = ", or continue it with `--resume_from_checkpoint last`" if begun else ""
        raise ValueError(f"`{folder}` holds {held}. Choose another --output_dir, or delete it{resume}.")
    if resume_from_checkpoint is None:
        return None
    if resume_from_checkpoint != "last":
        if Path(resume_from_checkpoint).resolve().parent != folder.resolve():
            raise ValueError(f"`{resume_from_checkpoint}` is not a checkpoint in the output_dir `{folder}`.")
        return resume_from_checkpoint
    last = last_checkpoint(output_dir)
    foreign = [
        path for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}") if not (path.parent / STAGE_FILE).exists()
    ]
    if last is None and (foreign or not begun):
        raise ValueError(
            f"`{folder}` holds no run to resume, or its checkpoints are not complete, or of an earlier version: begin a new run "
            "in another --output_dir, without --resume_from_checkpoint."
        )
    if last is None:
        logger.warning(f"The run in `{folder}` was stopped before its first complete checkpoint: it begins again.")
    return last
