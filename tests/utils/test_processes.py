"""Signals that end a command, as the shell left them."""

import signal

import pytest

from robust_vit_hf.utils.processes import end_by_signals


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
