"""Pictures of the training in TensorBoard."""

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import BaseImageProcessor
from transformers.integrations import TensorBoardCallback

from ..relevance.architectures import unwrap_pretrained
from ..relevance.overlay import relevance_strip
from ..relevance.relevance_map import relevance_map


class RelevanceTensorBoardCallback(TensorBoardCallback):
    """The Trainer's TensorBoard logs, and every `relevance_strip_steps` steps a strip of images:
    image | mask | relevance before | relevance after.

    Args:
        dataset: whose first images are shown; rows with `pixel_values`, `mask`, and `labels` if there are any.
        processor: that normalised the pixel values.
        num_images: rows of the strip.
    """

    def __init__(self, dataset: Dataset, processor: BaseImageProcessor, num_images: int = 4):
        super().__init__()
        self.dataset = dataset
        self.processor = processor
        self.num_images = num_images

    def measure_before(self, model: nn.Module) -> None:
        """Keep the maps of the original model, before a checkpoint is loaded into it."""
        rows = [self.dataset[index] for index in range(min(self.num_images, len(self.dataset)))]
        self.pixel_values = torch.stack([row["pixel_values"] for row in rows])
        self.masks = torch.stack([row["mask"] for row in rows])
        self.targets = torch.tensor([row["labels"] for row in rows]) if "labels" in rows[0] else None
        self.before = self._relevance(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.tb_writer is None or args.relevance_strip_steps == 0:
            return
        if state.global_step % args.relevance_strip_steps == 0:
            strip = relevance_strip(self.pixel_values, self.masks, self.before, self._relevance(model), self.processor)
            self.tb_writer.add_image("image | mask | relevance before | after", strip, state.global_step)

    @torch.no_grad()
    def _relevance(self, model: nn.Module) -> torch.Tensor:
        model = unwrap_pretrained(model)  # and not its DDP wrapper: this runs in the first process alone
        was_training = model.training
        model.eval()
        targets = None if self.targets is None else self.targets.to(model.device)
        relevance = relevance_map(model, self.pixel_values.to(model.device), targets).relevance
        model.train(was_training)
        return relevance.cpu()
