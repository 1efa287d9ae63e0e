"""The checkpoint from which a run is resumed."""

from contextlib import suppress
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME


def last_checkpoint(output_dir: str | Path) -> str | None:
    """Folder of the last complete checkpoint, if there is one. The Trainer writes the file of its state last."""
    complete = {}
    for path in Path(output_dir).glob("checkpoint-*"):
        with suppress(OSError, ValueError, TypeError):
            TrainerState.load_from_json(str(path / TRAINER_STATE_NAME))
            complete[int(path.name.removeprefix("checkpoint-"))] = str(path)
    return complete[max(complete)] if complete else None


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None) -> str | None:
    """Folder to resume from: the given one, or for `last` that of [`last_checkpoint`]. `None` if the run begins anew,
    which raises a `ValueError` if its folder holds other files, unless it is `last`."""
    others = sorted(path.name for path in Path(output_dir).glob("[!._]*"))
    if resume_from_checkpoint is None and others:
        raise ValueError(
            f"`{output_dir}` holds other files, such as `{others[0]}`. Choose another --output_dir, or continue its run "
            "with `--resume_from_checkpoint last`."
        )
    return last_checkpoint(output_dir) if resume_from_checkpoint == "last" else resume_from_checkpoint
