"""Completeness of checkpoints, and choice of the one to resume from."""

import json
import re
from pathlib import Path

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.utils import logging


logger = logging.get_logger(__name__)


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None, begun: bool) -> str | None:
    """The checkpoint to resume from.

    Args:
        resume_from_checkpoint: `"last"`, folder of a checkpoint in `output_dir`, or `None` for a new run. A run
            stopped before its first checkpoint starts again.
        begun: whether a run has already written to `output_dir`.

    Returns:
        The checkpoint's folder, or `None` to start from step 0.

    Raises:
        ValueError: a new run's folder is not empty, or there is no run or checkpoint to resume from.
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
        named = Path(resume_from_checkpoint)
        if named.resolve() not in [path.resolve() for path in complete]:
            lacking = missing_parts(named) if named.is_dir() else []
            raise ValueError(
                f"`{named}` is not a complete checkpoint in the output_dir `{folder}`, which has "
                f"{', '.join(path.name for path in complete) or 'none'}. {_describe(lacking) if lacking else ''}".rstrip()
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
    """The complete checkpoint with the highest step."""
    named = (
        path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)
    )  # no copies
    checkpoints = [path for path in named if is_complete(path)]
    last = max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
    return None if last is None else str(last)


def is_complete(checkpoint: Path) -> bool:
    """Whether resuming from a checkpoint gives the same result as an uninterrupted run."""
    return not missing_parts(checkpoint)


def check_complete(checkpoint: str) -> None:
    """Refuse to resume from an incomplete checkpoint.

    Raises:
        ValueError: the checkpoint is incomplete; names the missing parts.
    """
    if lacking := missing_parts(Path(checkpoint)):
        raise ValueError(f"`{checkpoint}` is not a complete checkpoint. {_describe(lacking)}")


def missing_parts(checkpoint: Path) -> list[str]:
    """Files missing in a checkpoint for resuming, except `model.safetensors`, which the Trainer checks.

    Without optimizer, schedule or random state, as with `save_only_model`, weights would differ from those of an
    uninterrupted run. `trainer_state.json` is written last, and may be truncated after a kill.
    """
    try:
        has_state = bool(json.loads((checkpoint / TRAINER_STATE_NAME).read_text()))
    except (OSError, ValueError):
        has_state = False
    found = {
        TRAINER_STATE_NAME: has_state,
        OPTIMIZER_NAME: any(checkpoint.glob("optimizer*")),  # `optimizer.bin` with FSDP2
        SCHEDULER_NAME: (checkpoint / SCHEDULER_NAME).is_file(),
        "rng_state.pth": any(checkpoint.glob("rng_state*.pth")),  # one per process
    }
    return [name for name, there in found.items() if not there]


def _describe(lacking: list[str]) -> str:
    return (
        f"It lacks {', '.join(f'`{name}`' for name in lacking)}, without which the run would not go on as it was: "
        "resume from another one, or begin a new run in another --output_dir. `save_only_model` saves weights alone."
    )
