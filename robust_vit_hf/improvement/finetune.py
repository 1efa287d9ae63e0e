"""The training of all layers, which gives candidates at several interpolation weights."""

import shutil
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from ..data.dataset_digest import dataset_identity
from ..evaluation.other_backgrounds import Outputs
from ..evaluation.session import NonFiniteLogits, Side
from ..models.interpolation import INTERPOLATION_FILE, interpolate
from ..models.loading import load_model
from ..training.checkpoints import last_checkpoint
from ..training.config import RobustViTConfig
from ..training.losses import TrainingDiverged
from ..training.methods import load_method
from ..training.trainer import RobustViTTrainer
from ..utils.cache import Cache
from ..utils.files import RUN_FILE, read_json
from ..utils.processes import TrainingInterrupted
from .candidates import INTERPOLATION_WEIGHTS, Candidate
from .options import ImproveOptions


SAVE_STEPS = 100  # between two checkpoints
# Learning rate, relative to the median root mean square of the weights. It is 0.016 for DINOv2-S, where 3e-5 is best, and 0.097 for
# EfficientNet-Lite0, where 1e-4 is best (docs/results.md).
RATE = 0.0015


def learning_rate(model: nn.Module) -> float:
    """Learning rate for AdamW by the size of the weights: each step changes a weight by about the rate, whatever its gradient."""
    sizes = [weight.detach().float().square().mean().sqrt() for weight in model.parameters() if weight.ndim > 1]
    return float(f"{RATE * torch.stack(sizes).median().item():.1e}")


@dataclass(frozen=True)
class Finetuning:
    """Finetunes a copy of a model, and measures it on the validation images.

    Args:
        cache: cache of the command, which has the finetuned model.
        side: the original model.
        train: images with masks.
        outputs_of: computes the logits of a model on the validation images.
        facts: for the record, see [`~robust_vit_hf.RobustViTTrainer.create_model_card`].
        settings: of [`~robust_vit_hf.RobustViTConfig`].
        inputs: what `start` and the backgrounds depend on, as JSON values.
        start: candidate with whose model the training begins; by default a copy of the original.
    """

    cache: Cache
    side: Side
    train: datasets.Dataset
    outputs_of: Callable[[Side], Outputs]
    options: ImproveOptions
    facts: dict[str, str]
    settings: Mapping[str, Any] = field(default_factory=lambda: {"method": "swap"})
    start: Candidate | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.options.learning_rate or learning_rate(self.side.model)

    def __str__(self) -> str:
        start = " from the new layer" if self.start else ""
        return f"finetuned by {self.settings['method']}{start}, learning rate {self.rate:g}, {self.options.max_steps} steps"

    def candidates(self, notes: list[str]) -> list[Candidate]:
        """The model at each interpolation weight; none, and a note in `notes`, if the training diverges."""
        candidates = []
        try:
            for weight in INTERPOLATION_WEIGHTS:
                made = {"outputs": partial(self.outputs, weight), "build": partial(self.build, weight)}
                candidates.append(Candidate.of(self.outputs(weight), name=str(self), weight=weight, **made))
        except (TrainingDiverged, NonFiniteLogits) as error:
            tqdm.write(f"  the training is left out: {error}", file=sys.stderr)
            left_out = f"The training diverged at the learning rate {self.rate:g}, and is left out"
            notes.append(f"{left_out}: give a lower --learning_rate.")
            return []
        return candidates

    def _between(self, weight: float) -> Side:
        model = interpolate(self.side.model, load_model(str(self.trained())).to(self.side.model.device), weight)
        return Side.of(model, self.side.processor, self.side.source)

    def outputs(self, weight: float) -> Outputs:
        return self.outputs_of(self._between(weight))

    def trained(self) -> Path:
        """Folder of the finetuned model in the cache. A training that was interrupted goes on from its last checkpoint."""
        options = {name: getattr(self.options, name) for name in ("seed", "train_batch_size", "bf16")}
        rows = dataset_identity(self.train)
        made_from = {"training": str(self), "settings": {**self.settings}, "model": self.side.digest, "rows": rows}
        return self.cache.folder("finetuned", self._train, **options, **made_from, **self.inputs)

    def _train(self, folder: Path) -> None:
        options = self.options
        set_seed(options.seed)
        config = load_method(self.settings.get("method", RobustViTConfig.method)).config(
            output_dir=str(folder),
            max_steps=options.max_steps,
            learning_rate=self.rate,
            lr_scheduler_type="cosine",  # the default decays by epochs, which depend on the number of images
            per_device_train_batch_size=options.train_batch_size,
            seed=options.seed,
            eval_strategy="no",
            save_strategy="steps",
            save_steps=SAVE_STEPS,
            enable_jit_checkpoint=True,
            load_best_model_at_end=False,
            logging_strategy="no",
            report_to="none",
            bf16=options.bf16,
            use_cpu=self.side.model.device.type == "cpu",
            backgrounds=options.backgrounds,
            **self.settings,
        )
        model = self.start.build()[0] if self.start else deepcopy(self.side.model)
        trainer = RobustViTTrainer(model, config, self.train, processing_class=self.side.processor)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        if trainer.state.global_step < trainer.state.max_steps:
            raise TrainingInterrupted(trainer.state.global_step, "Start the same command again to resume.")
        trainer.save_model(_internal_call=True)
        trainer.create_model_card(**self.facts)
        trainer.save_state()
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)

    def build(self, weight: float) -> tuple[PreTrainedModel, dict[str, dict]]:
        """The model at an interpolation weight, and its record."""
        model = self._between(weight).model  # which may have to be trained first
        run = read_json(self.trained() / RUN_FILE)
        run |= {"model_name": self.options.output_dir.resolve().name}
        run["training"] |= {"interpolation weight of the finetuned weights": f"{weight:g}"}
        if self.start:
            run["training"] |= {"last layer at the start": str(self.start)}
        interpolated = {"interpolation_weight": weight, "before": self.side.name, "after": "finetuned"}
        return model, {RUN_FILE: run, INTERPOLATION_FILE: interpolated}
