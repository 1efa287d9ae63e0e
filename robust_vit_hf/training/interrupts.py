"""Interrupts: SIGINT and SIGTERM during training save a checkpoint."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType

import torch
from transformers import DefaultFlowCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy


SIGNALS = (signal.SIGINT, signal.SIGTERM)  # sent by users and clusters


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended the training after a step. The exit status is 128 + the number of the signal."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status

    @classmethod
    def after(cls, number: int, step: int, checkpoint: str | None) -> "TrainingInterrupted":
        how = "There is no checkpoint to resume from. Start it again."
        if checkpoint is not None:
            how = f"The last checkpoint is `{checkpoint}`. Resume with the same command and `--resume_from_checkpoint last`."
        return cls(f"{signal.Signals(number).name} has stopped the training after step {step}. {how}", 128 + number)


class Interrupted(Exception):
    """Ends the Trainer's loop, or a validation, which may take longer than a cluster's grace period."""


class InterruptCallback(TrainerCallback):
    """Context manager and callback that end the training on the first SIGINT or SIGTERM after the current step, with a
    checkpoint unless `save_strategy` is `no`. A second signal has its original effect, except under torchrun or
    `accelerate launch`, which forward signals that the process may have received itself. Only the main thread receives
    signals. `received` is the signal's number that all processes have agreed on, or 0."""

    def __init__(self):
        self.received = self._noted = 0
        self._in_training = False
        self._previous = {}

    def __enter__(self) -> "InterruptCallback":
        self.received, self._noted, self._in_training = 0, 0, True
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        self._in_training = False
        self._restore()
        if self._noted and not self.received and exception[0] is None:  # it came after the last agreement
            signal.raise_signal(self._noted)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            self._restore()

    def agree(self, args: TrainingArguments) -> None:
        """Share a signal between processes: it may reach them in different steps, but all must stop after the same one."""
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

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.received:  # after the checkpoint; the Trainer's end would delete it if another one is the best
            raise Interrupted

    def on_prediction_step(self, args, state, control, **kwargs):
        if self._in_training:
            self.agree(args)
            if self.received:
                raise Interrupted


class MissedEvaluation(TrainerCallback):
    """Evaluates a checkpoint from which a training goes on if that is due and has not been done, as after a signal. So the best
    checkpoint is that of an unbroken run, if checkpoints are saved whenever they are evaluated."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)  # else, all intervals of a resumed run are those of its checkpoint
        best = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if state.best_model_checkpoint is None and best.is_dir():  # the folder was moved
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
