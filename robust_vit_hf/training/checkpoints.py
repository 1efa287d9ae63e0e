"""Complete checkpoints, and the one to resume from."""

import json
from pathlib import Path

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
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
    """The complete checkpoint of the highest step."""
    checkpoints = [path for path in Path(output_dir).glob("checkpoint-*") if is_complete(path)]
    last = max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
    return None if last is None else str(last)


def is_complete(checkpoint: Path) -> bool:
    """Whether a run can be resumed from a checkpoint, and ends as one that was not stopped."""
    return not missing_parts(checkpoint)


def check_complete(checkpoint: str) -> None:
    """Refuse to resume from a checkpoint that lacks a part.

    Raises:
        ValueError: it does; the parts are named.
    """
    if lacking := missing_parts(Path(checkpoint)):
        raise ValueError(f"`{checkpoint}` is not a complete checkpoint. {_describe(lacking)}")


def missing_parts(checkpoint: Path) -> list[str]:
    """Files that a checkpoint lacks to be resumed from, `model.safetensors` aside, which the Trainer asks for.

    Without the optimizer, schedule or random state, which `save_only_model` leaves out, the Trainer would go on with other
    weights than those of a run that was not stopped. `trainer_state.json` is the last file that it writes, of which a
    killed run may have left a part.
    """
    try:
        has_state = bool(json.loads((checkpoint / TRAINER_STATE_NAME).read_text()))
    except (OSError, ValueError):
        has_state = False
    found = {
        TRAINER_STATE_NAME: has_state,
        OPTIMIZER_NAME: any(checkpoint.glob("optimizer*")),  # of FSDP2 `optimizer.bin`
        SCHEDULER_NAME: (checkpoint / SCHEDULER_NAME).is_file(),
        "rng_state.pth": any(checkpoint.glob("rng_state*.pth")),  # of several processes one each
    }
    return [name for name, there in found.items() if not there]


def _describe(lacking: list[str]) -> str:
    return (
        f"It lacks {', '.join(f'`{name}`' for name in lacking)}, without which the run would not go on as it was: "
        "resume from another one, or begin a new run in another --output_dir. `save_only_model` saves weights alone."
    )
