"""A Trainer that fails loudly: folder locks, run identity, finite values, interrupts."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from ..data.schema import undecoded
from ..models.loading import BASE_FILE
from ..utils.files import weights_written, write_json
from ..utils.finite import NonFiniteError, check_finite, non_finite_weights
from ..utils.lock import folder_lock
from .adapters import base_digest
from .checkpoints import check_complete, last_checkpoint
from .interrupts import (
    EvaluationInterrupted,
    InterruptCallback,
    MissedEvaluation,
    TrainingInterrupted,
    outlive_signals,
)
from .publishing import PublishingTrainer
from .run_identity import RunIdentity


logger = logging.get_logger(__name__)


class TrainingDiverged(ValueError):
    """A loss or a weight became NaN or infinite."""


class ReliableTrainer(PublishingTrainer):
    """Trainer with the guarantees of `docs/reliability.md`. Its `args` need `on_nan`. Errors name images if batches
    have their `row_index` or `names`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._identity: RunIdentity | None = None
        self._base_digest = base_digest(self.model) if self.args.should_save else None
        self._in_checkpoint = False  # whose errors say more
        self._interrupt = InterruptCallback()
        self.add_callback(self._interrupt)
        self.add_callback(MissedEvaluation(self))
        self._mean_loss, self._num_losses = torch.zeros(()), 0  # over the steps of this training
        batch_size = self.args.train_batch_size * self.args.world_size
        sized = hasattr(self.train_dataset, "__len__")
        if self.args.dataloader_drop_last and sized and len(self.train_dataset) < batch_size:
            raise ValueError(
                f"The train dataset has {len(self.train_dataset)} images, fewer than a batch of {batch_size}, which "
                "`dataloader_drop_last` leaves out: there would be no step. Lower `per_device_train_batch_size`, or leave "
                "`dataloader_drop_last` out."
            )

    def check_checkpoint(self, checkpoint: str) -> None:
        """Check that this (untrained) trainer can resume from a checkpoint.

        Raises:
            ValueError: the checkpoint's run has other settings, another model or other data, see [`RunIdentity`], or
                the checkpoint is incomplete.
        """
        check_complete(checkpoint)
        self._identify().check(checkpoint)

    def _identify(self) -> RunIdentity:
        """Identity of the run, computed before the first step from the original model."""
        if self._identity is None:
            self._identity = RunIdentity(self)
            self.add_callback(self._identity)
        return self._identity

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """Train as in [`~transformers.Trainer`]. A signal to stop saves a checkpoint first, see [`InterruptCallback`].

        Raises:
            ValueError: the checkpoint belongs to another run or is incomplete, see [`check_checkpoint`].
            TrainingDiverged: a loss or weight is NaN or infinite.
            OSError: a checkpoint cannot be written, another process trains in the `output_dir`, or another process of
                this training has ended or not responded for `ddp_timeout`.
            TrainingInterrupted: after a signal.
        """
        self._identify()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            self.check_checkpoint(resume_from_checkpoint)
        self._num_losses, limit = 0, self.args.save_total_limit
        with ExitStack() as stack:
            if self.is_world_process_zero():
                stack.enter_context(folder_lock(Path(self.args.output_dir), "train"))
            stack.callback(setattr, self.args, "save_total_limit", limit)
            stack.enter_context(self._interrupt)
            output = None
            try:
                with suppress(EvaluationInterrupted):  # of a validation before the first step
                    output = super().train(resume_from_checkpoint, *args, **kwargs)
                # Waits: others still list the checkpoints, and releasing the lock removes the folder if nothing was written.
                self._interrupt.agree(self.args)
            except RuntimeError as error:
                # gloo's message. With NCCL, a watchdog ends the process.
                if self.args.world_size == 1 or not any(words in str(error) for words in ("Timed out", "by peer")):
                    raise
                raise OSError(
                    f"After step {self.state.global_step}: another process has ended, or has not answered for "
                    f"{self.args.ddp_timeout} s (`ddp_timeout`). Look at its last output, and resume. "
                    f"{self._describe_last_checkpoint()}"
                ) from error
            if number := self._interrupt.received:
                how = "Resume with the same command and `--resume_from_checkpoint last`."
                stopped = TrainingInterrupted(
                    f"{signal.Signals(number).name} has stopped the training after step {self.state.global_step}. "
                    f"{self._describe_last_checkpoint()} {how if last_checkpoint(self.args.output_dir) else 'Start it again.'}",
                    128 + number,
                )
                with suppress(RuntimeError):  # another process was killed meanwhile
                    self._interrupt.agree(self.args)  # as above
                raise stopped
        return output

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        outlive_signals(loader)
        return loader

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        with self._every_image():
            loader = super().get_eval_dataloader(eval_dataset)
        outlive_signals(loader)
        return loader

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        with self._every_image():
            loader = super().get_test_dataloader(test_dataset)
        outlive_signals(loader)
        return loader

    @contextmanager
    def _every_image(self) -> Iterator[None]:
        """Context in which loaders keep an incomplete last batch: `dataloader_drop_last` is for training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _run_epoch(self, *args, **kwargs) -> None:
        # The Trainer would take a step beyond `max_steps` when a run that ended within an epoch is resumed.
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _determine_best_metric(self, *args, **kwargs) -> bool:
        try:
            return super()._determine_best_metric(*args, **kwargs)
        except KeyError as error:
            raise ValueError(*error.args) from error  # which names the metrics that there are

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except EvaluationInterrupted:
            self.control.should_training_stop = True
            if self.args.save_strategy != SaveStrategy.NO:
                self._save_checkpoint(self.model, None)

    @property
    def skipped_batches(self) -> int:
        """Number of batches skipped for a non-finite loss, over all parts of the run."""
        return self._identity.skipped_batches if self._identity is not None else 0

    def training_step(self, model, inputs, num_items_in_batch=None):
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
            self._num_losses += 1
            self._mean_loss = self._mean_loss + (loss - self._mean_loss) / self._num_losses
            return loss
        except NonFiniteError as error:
            message = self._describe(error, f"Step {self.state.global_step + 1}", inputs)
            if self.args.on_nan == "stop":
                raise TrainingDiverged(
                    f"{message} Look at the image, and lower the learning rate if there are many; `on_nan='skip'` leaves such "
                    f"batches out. {self._describe_last_checkpoint()}"
                ) from error
            self._identity.skipped_batches += 1
            logger.warning(f"{message} The batch is left out.")
            return torch.as_tensor(self._mean_loss, device=self.args.device)  # for the mean logged by the Trainer

    def check_losses(self, losses: torch.Tensor) -> None:
        """Check a step's losses `(B,)` of all processes, so that all skip the batch or stop.

        Raises:
            NonFiniteError: some are NaN or infinite, in any process.
        """
        bad = (~losses.detach().isfinite()).nonzero().flatten().tolist()
        failed = torch.tensor(len(bad), device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(failed)
        if failed:
            raise NonFiniteError("loss", bad)

    def check_batch(
        self,
        when: str,
        name: str,
        values: torch.Tensor,
        inputs: dict,
        dataset: Dataset | None = None,
        advice: str = "",
    ) -> None:
        """Check values `(B, …)` of a batch outside of a step; `name` is their name in errors.

        Args:
            dataset: as for [`_name_images`].

        Raises:
            ValueError: some are NaN or infinite; names the images.
        """
        try:
            check_finite(name, values)
        except NonFiniteError as error:
            raise ValueError(f"{self._describe(error, when, inputs, dataset)} {advice}".rstrip()) from error

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in the Trainer, and with training losses the number of skipped batches."""
        if "loss" in logs and self.skipped_batches:
            logs["skipped_batches"] = self.skipped_batches
        super().log(logs, start_time)

    def _describe(self, error: NonFiniteError, when: str, inputs: dict, dataset: Dataset | None = None) -> str:
        return f"{when}: the {error.values} of {self._name_images(inputs, error.images, dataset)} is NaN or infinite."

    def _name_images(self, inputs: dict, images: list[int], dataset: Dataset | None = None) -> str:
        """Names of a batch's images: dataset rows and files, if known. The dataset defaults to that of the model's
        current mode."""
        if not images:
            return "images of another process"
        if "names" in inputs:
            return ", ".join(inputs["names"][image] for image in images)
        if "row_index" not in inputs:
            return f"image {', '.join(map(str, images))} of the batch"
        if dataset is None:
            dataset = self.train_dataset if self.model.training else self.eval_dataset
        dataset, names = undecoded(dataset.with_format(None)), []
        for row in inputs["row_index"][images].tolist():
            path = dataset[dataset["row_index"][:].index(row)]["image"]["path"]
            names.append(f"row {row}" + (f" (`{path}`)" if path else ""))
        return ", ".join(names)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the Trainer, but NaN or infinite weights raise [`TrainingDiverged`], a full disk an `OSError`, and adapters
        are saved with their base's digest."""
        if bad := non_finite_weights(self.model):
            raise TrainingDiverged(
                f"After step {self.state.global_step}, {len(bad)} weights are NaN or infinite, such as `{bad[0]}`: they are not "
                f"saved. Lower the learning rate, {self.args.learning_rate:g}. {self._describe_last_checkpoint()}"
            )
        with nullcontext() if self._in_checkpoint else weights_written(Path(output_dir or self.args.output_dir)):
            super().save_model(output_dir, _internal_call)
        if self._base_digest is not None and hasattr(self.model, "peft_config"):
            write_json(Path(output_dir or self.args.output_dir, BASE_FILE), {"digest": self._base_digest})

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        if self._interrupt.received:
            # With a limit of 1, the Trainer would finally delete all checkpoints except the best; `train` restores it.
            self.args.save_total_limit = None
        self._in_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as an "unexpected pos"
            raise OSError(
                f"The checkpoint of step {self.state.global_step} could not be written to `{self.args.output_dir}`: {error}. "
                f"Is the disk full? {self._describe_last_checkpoint()} Make room, and resume."
            ) from error
        finally:
            self._in_checkpoint = False

    def _describe_last_checkpoint(self) -> str:
        last = last_checkpoint(self.args.output_dir)
        return f"The last good checkpoint is `{last}`." if last else "There is no checkpoint to resume from."

    # Checkpoints are saved under the parameter names of transformers 4, and only `from_pretrained` converts them: the
    # Trainer's `load_state_dict(strict=False)` skips renamed weights, so that a resumed run, or the best model, would
    # have the attention of another step (huggingface/transformers#48805).

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with _damage_is_named(resume_from_checkpoint):
            if isinstance(self.model, PreTrainedModel):
                weights = type(self.model).from_pretrained(resume_from_checkpoint).state_dict()
                set_model_state_dict(self.model, weights, options=StateDictOptions(full_state_dict=True))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)  # an adapter, with PEFT's names

    def _load_best_model(self) -> None:
        if isinstance(self.model, PreTrainedModel):
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    # A kill cannot damage a complete checkpoint, but disks and copies can.

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _damage_is_named(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _damage_is_named(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def _damage_is_named(checkpoint: str | None) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise ValueError(
            f"A file of `{checkpoint}` is damaged ({' '.join(str(error).split())}): delete this checkpoint, and resume from an "
            "earlier one, or begin again."
        ) from error
