"""How the processes of a command begin, are interrupted and end. Calls from Python leave their process as it is."""

import ctypes
import os
import platform
import signal
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.state import AcceleratorState

from .environment import loaded_commit


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # numbers of settings, see mallopt(3)


class TrainingInterrupted(KeyboardInterrupt):
    """SIGTERM ended a training after a checkpoint."""

    exit_status = 128 + signal.SIGTERM

    def __init__(self, step: int, advice: str = "Resume with the same command and `--resume_from_checkpoint last`."):
        super().__init__(f"SIGTERM has stopped the training after step {step}. {advice}")


def begin_command() -> None:
    """Record the commit of the code, and keep freed memory if the process computes alone on a CPU."""
    loaded_commit()
    if not torch.accelerator.is_available() and os.environ.get("WORLD_SIZE", "1") == "1":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep up to 2 GiB of freed memory, to save page faults, which took a CNN more than half of its time on a CPU."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def make_accelerator(bf16: bool) -> Accelerator:
    """Accelerator of an evaluation with bfloat16 autocast or fp32, regardless of `accelerate config` and earlier accelerators."""
    precision = "bf16" if bf16 else "no"
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],  # the first process prepares the sets
    )


def end_by_signals() -> None:
    """Raise `KeyboardInterrupt` at SIGTERM, SIGHUP and Ctrl+C, also in the background, so that files are cleaned up."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if kind != signal.SIGHUP or signal.getsignal(kind) is not signal.SIG_IGN:  # `nohup` ignores it
            signal.signal(kind, signal.default_int_handler)


def leave(status: int) -> None:
    """Exit a CPU process without destroying the process group, which sometimes aborts or hangs under gloo (torch 2.13)."""
    if PartialState._shared_state and PartialState().device.type == "cpu" and PartialState().num_processes > 1:
        sys.stdout.flush()
        os._exit(status)
