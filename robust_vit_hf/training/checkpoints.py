"""Complete checkpoints, and the one to resume from."""

import json
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging


logger = logging.get_logger(__name__)


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None, begun: bool) -> str | None:
    """The checkpoint to resume from.

    Args:
        resume_from_checkpoint: `"last"`, folder of a checkpoint in `output_dir`, or `None` for a new run. A run that was
            stopped before its first checkpoint begins again.
        begun: whether a run has written into `output_dir` before.

    Returns:
        Its folder, or `None` for a run that begins.

    Raises:
        ValueError: the folder of a new run is not empty, or there is no run, or no such checkpoint, to resume from.
    """
    folder = Path(output_dir)
    others = [path for path in folder.glob("*") if path.suffix != ".lock"] if folder.is_dir() else []
    if resume_from_checkpoint is None:
        if others and begun:
            raise ValueError(
                f"`{folder}` holds another run. Choose another --output_dir, delete it, or continue it with "
                "`--resume_from_checkpoint last`."
            )
        if others:
            raise ValueError(
                f"`{folder}` holds other files, such as `{others[0].name}`. Choose another --output_dir, or delete it."
            )
        return None
    last = last_checkpoint(output_dir)
    if resume_from_checkpoint != "last":
        complete = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
        if Path(resume_from_checkpoint).resolve() not in [path.resolve() for path in complete]:
            raise ValueError(
                f"`{resume_from_checkpoint}` is not a complete checkpoint in the output_dir `{folder}`, which has "
                f"{', '.join(path.name for path in complete) or 'none'}."
            )
        return str(resume_from_checkpoint)
    if last is None and not begun:
        raise ValueError(
            f"`{folder}` holds no run to resume: expected the --output_dir of one. To begin a new run, leave out "
            "--resume_from_checkpoint."
        )
    if last is None:
        logger.warning(f"The run in `{folder}` was stopped before its first complete checkpoint: it begins again.")
    return last


def last_checkpoint(output_dir: str) -> str | None:
    """The complete checkpoint of the highest step."""
    checkpoints = [path for path in Path(output_dir).glob("checkpoint-*") if is_complete(path)]
    last = max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
    return None if last is None else str(last)


def is_complete(checkpoint: Path) -> bool:
    """Whether the last file that the Trainer writes is complete: a killed run may have left a part of a checkpoint."""
    try:
        return bool(json.loads((checkpoint / TRAINER_STATE_NAME).read_text()))
    except (OSError, json.JSONDecodeError):
        return False
