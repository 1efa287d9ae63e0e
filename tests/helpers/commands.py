"""Commands as users run them: in this process where that proves the same, or launched."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from accelerate.state import AcceleratorState, PartialState

from experiments.__main__ import main as run_experiment
from robust_vit_hf.cli.main import main

from .tiny import ROOT


@dataclass(frozen=True)
class Completed:
    """What a command left: exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The line that says what was wrong: the last of stderr, and no traceback before it."""
        assert self.status in (1, 2) and "Traceback" not in self.err, self.err[-3000:]
        return self.err.splitlines()[-1]


def call(*arguments) -> Completed:
    """`robust-vit …` in this process; or `python -m experiments …`, if the first argument is `experiments`."""
    words, run = list(map(str, arguments)), main
    if words[:1] == ["experiments"]:
        words, run = words[1:], run_experiment
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        for state in (AcceleratorState, PartialState):  # a process has one precision: another test's may differ
            stack.enter_context(patch.dict(state._shared_state, clear=True))
        status = run(words)
    return Completed(status, out.getvalue(), err.getvalue())


def succeed(*arguments) -> str:
    """stdout of a command in this process, see [`call`], which must succeed."""
    completed = call(*arguments)
    assert completed.status == 0, completed.err[-3000:]
    return completed.out


def python(*arguments) -> list[str]:
    return list(map(str, [sys.executable, *arguments]))


def start(*arguments, stdout: int = subprocess.DEVNULL, **environment) -> subprocess.Popen:
    """Python with arguments, in a process and a group of its own in the root of the repository, which goes on."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        python(*arguments),
        cwd=ROOT,
        env=variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launch(*arguments, timeout: float = 300, **environment) -> Completed:
    """What [`start`] leaves."""
    process = start(*arguments, stdout=subprocess.PIPE, **environment)
    try:
        out, err = process.communicate(timeout=timeout)
        return Completed(process.returncode, out, err)
    finally:
        process.kill()


def launch_two(*arguments, **environment) -> Completed:
    """Python with arguments in two processes: `accelerate launch --cpu --num_processes 2` starts one where MPI is not
    installed, so torchrun starts them."""
    return launch("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, *arguments, **environment)


def kill_when(condition: Callable[[], bool], *arguments, **environment) -> None:
    """Start Python with arguments, and kill it and its children without warning as soon as a condition holds."""
    process = start(*arguments, **environment)
    wait_until(condition, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_until(condition: Callable[[], Any], process: subprocess.Popen, timeout: float = 200) -> Any:
    """Wait until a condition holds and return its value; fail if the process ends first."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.005)
            raise AssertionError((process.stderr or io.StringIO("the process has ended")).read()[-3000:])
    return value


def files_below(folder: Path) -> dict[str, bytes]:
    """Contents of all files, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
