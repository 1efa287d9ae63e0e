"""Identity of a run: its settings, model and data, which must be the same on resuming."""

import json
from pathlib import Path

import datasets
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.dataset_digest import dataset_identity
from ..data.stream import MaskedStream, stream_identity
from ..models.model_digest import model_digest


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
    "on_nan",
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


class RunIdentity(TrainerCallback, ExportableState):
    """Saves a run's identity in the `trainer_state.json` of its checkpoints.

    Args:
        trainer: trainer before its first step, with the original model.
    """

    def __init__(self, trainer: Trainer):
        batch_size = trainer.args.per_device_train_batch_size * trainer.args.world_size
        settings = trainer.args.to_sanitized_dict() | {"batch size of all processes": batch_size}
        settings |= {"FSDP2": True} if trainer.is_fsdp_enabled else {}  # its optimizer is saved in another format
        adapter = next(iter(getattr(trainer.model, "peft_config", {}).values()), None)
        # Processes and workers share the rows of a stream, so batches depend on their numbers.
        shared = {"dataloader_num_workers", "per_device_train_batch_size"}
        kept = shared if isinstance(trainer.train_dataset, MaskedStream) else set()
        identity = {
            "settings": {name: value for name, value in settings.items() if name in kept or not _may_change(name)},
            "original model": model_digest(trainer.model),
            # Sets are ordered differently in each process.
            "adapter": adapter and json.dumps(adapter.to_dict(), default=lambda value: sorted(map(str, value))),
            "image processor": trainer.processing_class.to_json_string(),
            "train dataset": identity_of(trainer.train_dataset),
            "validation dataset": identity_of(trainer.eval_dataset),
        }
        if trainer.backgrounds is not None:
            identity["folder of backgrounds"] = trainer.backgrounds.identity()
        self.identity = json.loads(json.dumps(identity, default=str))
        self.skipped_batches = 0  # with non-finite loss, over all parts of the run

    def state(self) -> dict:
        return {"args": {}, "attributes": {"identity": self.identity, "skipped_batches": self.skipped_batches}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.skipped_batches = state.stateful_callbacks[type(self).__name__]["attributes"]["skipped_batches"]
        # The best checkpoint's path changes when the folder is moved.
        best = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if state.best_model_checkpoint is None and best.is_dir():
            state.best_model_checkpoint = str(best)

    def check(self, checkpoint: str) -> None:
        """Refuse to resume from a checkpoint of another run.

        Raises:
            ValueError: the checkpoint's run has other settings, another model or other data, named in the message.
        """
        state = json.loads(Path(checkpoint, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        begun = state["stateful_callbacks"].get(type(self).__name__, {}).get("attributes", {}).get("identity")
        if begun is None:
            raise ValueError(
                f"`{checkpoint}` does not say with which settings, model and data it was begun: expected a checkpoint of "
                "this version of robust-vit-hf. Begin a new run in another --output_dir."
            )
        settings, others = begun.pop("settings"), {**self.identity}
        now = others.pop("settings")
        changed = [
            f"`{name}` {settings.get(name)}, now {now.get(name)}"
            for name in settings | now
            if settings.get(name) != now.get(name)
        ]
        changed += [f"another {name}" for name in others if begun.get(name) != others[name]]
        if changed:
            raise ValueError(
                f"`{checkpoint}` was begun with {'; '.join(changed)}. Give the same to resume it, or begin a new run in "
                "another --output_dir. Epochs, logging, evaluation, saving and pushing may change."
            )


def _may_change(name: str) -> bool:
    return name in MAY_CHANGE or name.startswith(MAY_CHANGE_PREFIXES)


def identity_of(dataset: object) -> str | int | None:
    """Identity of a table or stream; for other datasets, only the number of rows, if any."""
    if isinstance(dataset, datasets.Dataset):
        return dataset_identity(dataset)
    if isinstance(dataset, MaskedStream):
        return stream_identity(dataset.dataset)
    return len(dataset) if hasattr(dataset, "__len__") else None
