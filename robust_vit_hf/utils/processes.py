"""Processes and threads of a launched command."""

import ctypes
import os
import platform
import signal
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def make_accelerator(bf16: bool) -> Accelerator:
    """Accelerator of an evaluation command with bfloat16 autocast or fp32, regardless of `accelerate config`."""
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],  # the first process prepares the sets
    )
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1:
        use_all_cores()
        keep_freed_memory()
    return accelerator


def use_all_cores() -> None:
    """Let torch use all cores available to the process (containers and `taskset` may restrict them). `accelerate
    launch` gives a process only one thread unless `--num_cpu_threads_per_process` is set."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    torch.set_num_threads(len(usable))


def keep_freed_memory() -> None:
    """Let glibc keep up to 2 GiB of freed memory for the next tensors. By default it returns large ones to the system at once, and
    page faults of new ones take two thirds of the forward pass of a CNN on a CPU (`benchmarks/freed_memory.py`)."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def end_by_signals() -> None:
    """End at SIGTERM and SIGHUP as at Ctrl+C, so that files are cleaned up; and at Ctrl+C in the background too, where a shell
    ignores it."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if kind != signal.SIGHUP or signal.getsignal(kind) is not signal.SIG_IGN:  # as by `nohup`
            signal.signal(kind, signal.default_int_handler)


def leave() -> None:
    """Exit a CPU process without destroying the process group, which sometimes aborts or hangs under gloo (torch 2.13)."""
    if PartialState._shared_state and PartialState().device.type == "cpu" and PartialState().num_processes > 1:
        sys.stdout.flush()
        os._exit(0)
