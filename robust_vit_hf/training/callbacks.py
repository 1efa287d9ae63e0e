"""Training callbacks: images in TensorBoard, the epoch of the augmentation, and the time of training."""

import time
from functools import partial
from itertools import islice
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Dataset
from torchvision.utils import make_grid
from transformers import BaseImageProcessor, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ExportableState

from ..relevance.architectures import unwrap_pretrained
from ..relevance.overlay import denormalize, overlay
from ..relevance.relevance_map import relevance_map


STRIPS_FOLDER = "strips"  # beside the logs, since a push uploads these, and not the user's images


class SharedEpoch(TrainerCallback):
    """The epoch, counted from 0, in memory shared with data loader workers."""

    def __init__(self):
        self.number = torch.zeros((), dtype=torch.int64).share_memory_()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.number.fill_(int(state.epoch))


class TrainingTime(TrainerCallback, ExportableState):
    """Seconds of training over all parts of a run, saved in each checkpoint."""

    def __init__(self):
        self.resumed = False  # from a checkpoint
        self.earlier = 0.0  # of the parts before this one
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


# In which logs get names without the host name, which would be uploaded. No argument changes that.
_without_host_name = partial(mock.patch, "socket.gethostname", lambda: "host")


class RelevanceTensorBoardCallback(TensorBoardCallback):
    """The Trainer's TensorBoard logs and, every `relevance_strip_steps` steps, strips of a dataset's first images:
    image | mask | relevance before | relevance after, in a file of their own in `strips/`. Rows of the dataset have
    `pixel_values`, `mask` and, optionally, `labels`."""

    def __init__(self, dataset: Dataset, processor: BaseImageProcessor):
        super().__init__()
        self.dataset = dataset
        self.processor = processor
        self.before: torch.Tensor | None = None
        self.strip_writer = None

    def on_train_begin(self, args, state, control, **kwargs):
        with _without_host_name():
            super().on_train_begin(args, state, control, **kwargs)

    def measure_before(self, model: nn.Module) -> None:
        """Save the maps of the original model, before loading a checkpoint into it."""
        rows = list(islice(self.dataset, 4))
        self.pixel_values = torch.stack([row["pixel_values"] for row in rows])
        self.masks = torch.stack([row["mask"] for row in rows])
        self.targets = torch.tensor([row["labels"] for row in rows]) if "labels" in rows[0] else None
        self.before = self._relevance(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.before is None or state.global_step % args.relevance_strip_steps:
            return
        if self.tb_writer is None and not isinstance(model, FSDPModule):  # FSDP models must run in every process
            return
        relevance = self._relevance(model)
        if self.tb_writer is not None:
            if self.strip_writer is None:
                with _without_host_name():
                    self.strip_writer = self._SummaryWriter(log_dir=str(Path(args.output_dir, STRIPS_FOLDER)))
            images = denormalize(self.pixel_values, self.processor)
            maps = [overlay(images, of_model) for of_model in (self.before, relevance)]
            columns = torch.stack([images, self.masks.expand_as(images), *maps], dim=1)
            strip = make_grid(columns.flatten(0, 1), nrow=4)
            self.strip_writer.add_image("image | mask | relevance before | after", strip, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        if self.strip_writer is not None:
            self.strip_writer.close()
            self.strip_writer = None

    @torch.no_grad()
    def _relevance(self, model: nn.Module) -> torch.Tensor:
        model = unwrap_pretrained(model)  # not the DDP wrapper, since only the first process runs this
        was_training = model.training
        model.eval()
        targets = None if self.targets is None else self.targets.to(model.device)
        relevance = relevance_map(model, self.pixel_values.to(model.device), targets, check_finite=False).relevance
        model.train(was_training)
        return relevance.cpu()
