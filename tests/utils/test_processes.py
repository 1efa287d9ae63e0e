"""Threads, and signals that end a command, as the shell left them."""

import os
import signal

import pytest
import torch

from robust_vit_hf.utils.processes import end_by_signals, use_all_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_as_many_threads_as_the_process_has_cores():
    use_all_cores()
    torch.set_num_threads.assert_called_with(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    "kind, before, after",
    [
        (signal.SIGINT, signal.SIG_IGN, signal.default_int_handler),  # in the background of a script
        (signal.SIGTERM, signal.SIG_IGN, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_IGN, signal.SIG_IGN),  # by nohup
        (signal.SIGHUP, signal.SIG_DFL, signal.default_int_handler),
    ],
)
def test_which_signals_end_a_command(kind, before, after):
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(kind, before)
        end_by_signals()
        assert signal.getsignal(kind) is after
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
