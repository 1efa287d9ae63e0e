"""Callbacks for training: stop on signals, make up for a validation that a signal postponed, share the epoch, measure the time, log to TensorBoard."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from unittest import mock

import torch
from transformers import DefaultFlowCallback, Trainer, TrainerCallback, TrainerControl
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended the training after a step. The exit status is 128 + the number of the signal."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status

    @classmethod
    def after(cls, number: int, step: int, checkpoint: str | None) -> "TrainingInterrupted":
        how = "There is no checkpoint to resume from. Start the training again."
        if checkpoint is not None:
            how = f"The last checkpoint is `{checkpoint}`. Resume with the same command and `--resume_from_checkpoint last`."
        return cls(f"{signal.Signals(number).name} has stopped the training after step {step}. {how}", 128 + number)


class Interrupted(Exception):
    """Ends the Trainer's loop, or a validation, since that may take longer than the grace period of a cluster."""


class InterruptCallback(TrainerCallback):
    """Context manager and callback: the first SIGINT or SIGTERM ends the training after the current step, with a
    checkpoint unless `save_strategy` is `no`. A second signal has its original effect, except under launchers, which
    forward signals that the process may already have received."""

    def __init__(self):
        self.received = self._noted = 0
        self._in_training = False
        self._previous = {}

    def __enter__(self) -> "InterruptCallback":
        self.received, self._noted, self._in_training = 0, 0, True
        if threading.current_thread() is threading.main_thread():
            self._previous = {kind: signal.signal(kind, self._note) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        self._in_training = False
        self._restore()
        if self._noted and not self.received and exception[0] is None:  # the signal came after the last `agree`
            signal.raise_signal(self._noted)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            self._restore()

    def agree(self, args) -> None:
        """Share a signal between processes, so that all stop after the same step."""
        received = self._noted
        if args.world_size > 1:
            shared = torch.tensor(received, device=args.device)
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
            received = int(shared)
        self.received = received

    def on_step_end(self, args, state, control, **kwargs):
        self.agree(args)
        if self.received:
            control.should_training_stop = True
            control.should_save = args.save_strategy != SaveStrategy.NO

    def on_prediction_step(self, args, state, control, **kwargs):
        if self._in_training:
            self.agree(args)
            self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.received:  # after the checkpoint, which the Trainer would delete at its end if another one is the best
            raise Interrupted


class MissedEvaluation(TrainerCallback):
    """Evaluates the checkpoint from which a training resumes, if a signal prevented this evaluation."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        # Without this, the Trainer takes the intervals (such as `save_steps`) from the checkpoint, not from `args`.
        state.compute_steps(args, state.max_steps)
        best = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if state.best_model_checkpoint is None and best.is_dir():  # the output folder was moved
            state.best_model_checkpoint = str(best)
        step = state.global_step
        if not step or any("eval_loss" in entry and entry["step"] == step for entry in state.log_history):
            return
        planned = DefaultFlowCallback().on_step_end(args, state, TrainerControl())
        if planned.should_training_stop or abs(state.epoch - round(state.epoch)) < 1e-6:
            DefaultFlowCallback().on_epoch_end(args, state, planned)
        if planned.should_evaluate:
            metrics = self._trainer._evaluate(None, None)
            checkpoint = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{step}")
            if self._trainer._determine_best_metric(metrics=metrics, trial=None) and checkpoint.is_dir():
                state.best_model_checkpoint = str(checkpoint)


class SharedEpoch(TrainerCallback):
    """Number of the epoch in shared memory, which the workers of data loaders read."""

    def __init__(self):
        self.number = torch.zeros((), dtype=torch.int64).share_memory_()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.number.fill_(int(state.epoch))


class TrainingTime(TrainerCallback, ExportableState):
    """Seconds of training in all parts of a resumed run. Each checkpoint stores them."""

    def __init__(self):
        self.resumed, self.earlier = False, 0.0
        self._started = self._ended = None

    @property
    def seconds(self) -> float:
        if self._started is None:
            return self.earlier
        return self.earlier + (self._ended or time.monotonic()) - self._started

    def state(self) -> dict:
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.resumed = state.global_step > 0
        saved = state.stateful_callbacks[type(self).__name__]["attributes"]["seconds"]
        self.earlier = saved if self.resumed else 0.0
        self._started, self._ended = time.monotonic(), None

    def on_train_end(self, args, state, control, **kwargs):
        self._ended = time.monotonic()


class TensorBoardWithoutHostName(TensorBoardCallback):
    """Logs to TensorBoard, which has no option against the host name in the names of its files. They are uploaded."""

    def on_train_begin(self, args, state, control, **kwargs):
        with mock.patch("socket.gethostname", lambda: "host"):
            super().on_train_begin(args, state, control, **kwargs)
