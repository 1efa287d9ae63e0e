"""Complete checkpoints, and the one to resume from."""

import json
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None) -> str | None:
    """The checkpoint to resume from.

    Args:
        resume_from_checkpoint: `"last"`, folder of a checkpoint in `output_dir`, or `None` for a new run.

    Raises:
        ValueError: the folder of a new run is not empty, or there is no complete checkpoint to resume from.
    """
    folder = Path(output_dir)
    if resume_from_checkpoint is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"`{folder}` holds another run. Choose another --output_dir, delete it, or continue it with "
                "`--resume_from_checkpoint last`."
            )
        return None
    checkpoints = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
    if resume_from_checkpoint != "last":
        if Path(resume_from_checkpoint).resolve() not in [path.resolve() for path in checkpoints]:
            raise ValueError(
                f"`{resume_from_checkpoint}` is not a complete checkpoint in the output_dir `{folder}`, which has "
                f"{', '.join(path.name for path in checkpoints) or 'none'}."
            )
        return resume_from_checkpoint
    if not checkpoints:
        raise ValueError(f"`{folder}` has no complete checkpoint to resume from. Leave out --resume_from_checkpoint.")
    return str(max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-"))))


def is_complete(checkpoint: Path) -> bool:
    """Whether the last file that the Trainer writes is complete: a killed run may have left a part of a checkpoint."""
    try:
        return bool(json.loads((checkpoint / TRAINER_STATE_NAME).read_text()))
    except (OSError, json.JSONDecodeError):
        return False
