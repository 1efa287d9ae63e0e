"""Pictures of the training in TensorBoard."""

from typing import TYPE_CHECKING

import torch
from transformers.integrations import TensorBoardCallback

from .figures import relevance_strip
from .relevance import relevance_map


if TYPE_CHECKING:
    from .trainer import RobustViTTrainer


class RelevanceTensorBoardCallback(TensorBoardCallback):
    """The Trainer's TensorBoard logs, and every `relevance_strip_steps` steps a strip of validation images:
    image | mask | relevance before | relevance after.

    Args:
        trainer: the trainer whose validation images, or else training images, are shown.
        num_images: rows of the strip.
    """

    def __init__(self, trainer: "RobustViTTrainer", num_images: int = 4):
        super().__init__()
        self.trainer = trainer
        self.num_images = num_images

    def measure_before(self) -> None:
        """Keep the maps of the model as it is now: the original, before a checkpoint is loaded into it."""
        if self.trainer.args.relevance_strip_steps == 0 or not self.trainer.is_world_process_zero():
            return
        dataset = self.trainer.eval_dataset or self.trainer.train_dataset
        rows = [dataset[index] for index in range(min(self.num_images, len(dataset)))]
        self.pixel_values = torch.stack([row["pixel_values"] for row in rows])
        self.masks = torch.stack([row["mask"] for row in rows])
        self.targets = torch.tensor([row["labels"] for row in rows]) if "labels" in rows[0] else None
        self.before = self._relevance()

    def on_step_end(self, args, state, control, **kwargs):
        if self.tb_writer is None or args.relevance_strip_steps == 0:
            return
        if state.global_step % args.relevance_strip_steps == 0:
            strip = relevance_strip(
                self.pixel_values, self.masks, self.before, self._relevance(), self.trainer.processing_class
            )
            self.tb_writer.add_image("image | mask | relevance before | after", strip, state.global_step)

    @torch.no_grad()
    def _relevance(self) -> torch.Tensor:
        # The model itself, not its DDP wrapper: this runs in the first process alone.
        model = self.trainer.model
        was_training = model.training
        model.eval()
        targets = None if self.targets is None else self.targets.to(model.device)
        relevance = relevance_map(model, self.pixel_values.to(model.device), targets).relevance
        model.train(was_training)
        return relevance.cpu()
