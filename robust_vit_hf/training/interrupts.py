"""Interrupts: SIGINT and SIGTERM during the training save a checkpoint."""

import os
import signal
import threading
from types import FrameType

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy


SIGNALS = (signal.SIGINT, signal.SIGTERM)  # of a user, and of a cluster that takes its machine back


class TrainingInterrupted(KeyboardInterrupt):
    """A signal has ended the training after a step.

    Args:
        exit_status: that of a process which the signal ends, 128 + its number.
    """

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status


class EvaluationInterrupted(Exception):
    """A signal has come during a validation within the training, which may take longer than a cluster waits."""


class InterruptCallback(TrainerCallback):
    """Context and callback that let the first SIGINT or SIGTERM end the training after the present step, with a checkpoint
    unless `save_strategy` is `no`. A second one acts as before the training, but under torchrun or `accelerate launch`, which
    pass on a signal that the process may have received itself. Signals reach the main thread alone, so a training in another
    thread is not interrupted.

    `received` is the number of the signal, or 0.
    """

    def __init__(self):
        self.received = 0
        self._in_training = False
        self._previous = {}

    def __enter__(self) -> "InterruptCallback":
        self.received, self._in_training = 0, True
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        self._in_training = False
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            self._restore()

    def _agree(self, args: TrainingArguments) -> None:
        """Note the signal of any process: it may reach them in different steps, and all must stop after the same."""
        if args.world_size > 1:
            received = torch.tensor(self.received, device=args.device)
            torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
            self.received = int(received)

    def on_step_end(self, args, state, control, **kwargs):
        self._agree(args)
        if self.received:
            control.should_training_stop = True
            control.should_save = args.save_strategy != SaveStrategy.NO

    def on_prediction_step(self, args, state, control, **kwargs):
        if self._in_training:
            self._agree(args)
            if self.received:
                raise EvaluationInterrupted

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.received:  # a cluster waits some seconds, too few for an evaluation
            control.should_evaluate = control.should_save = False
