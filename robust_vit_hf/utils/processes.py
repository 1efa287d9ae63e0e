"""Processes and threads of a launched command."""

import os
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState


def make_accelerator(bf16: bool) -> Accelerator:
    """Accelerator of an evaluation command, with autocast to bfloat16 or else fp32, whatever `accelerate config` says."""
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],  # the first process prepares the sets
    )
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1:
        use_all_cores()
    return accelerator


def use_all_cores() -> None:
    """Let torch use every core that the process may run on, which containers and `taskset` restrict. `accelerate launch`
    leaves a process one thread, unless `--num_cpu_threads_per_process` says otherwise."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    torch.set_num_threads(len(usable))


def leave() -> None:
    """Exit a process of several on CPUs without destroying the process group, which sometimes aborts or hangs under gloo
    (torch 2.13), and would fail the launch."""
    if PartialState._shared_state and PartialState().device.type == "cpu" and PartialState().num_processes > 1:
        sys.stdout.flush()
        os._exit(0)
