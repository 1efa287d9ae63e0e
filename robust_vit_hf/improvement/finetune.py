"""The training of all layers, which gives candidates at several interpolation weights."""

import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from ..evaluation.measurement import NonFiniteLogits
from ..evaluation.other_backgrounds import COVERED, MOVED, Outputs
from ..evaluation.session import Side
from ..models.interpolation import INTERPOLATION_FILE, interpolate
from ..models.loading import load_model
from ..training.checkpoints import last_checkpoint
from ..training.config import RobustViTConfig
from ..training.losses import TrainingDiverged
from ..training.methods import load_method
from ..training.trainer import RobustViTTrainer
from ..utils.files import RUN_FILE, read_json
from ..utils.processes import TrainingInterrupted
from ..utils.stage import Stage
from .candidates import INTERPOLATION_WEIGHTS, Candidate, measured_outcomes
from .options import ImproveOptions


TRAINING_FOLDER = "training"  # in the folder of the candidate; other shares may choose the model
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
        side: the original model.
        train: images with masks.
        outputs_of: computes the logits of a model on the validation images.
        facts: for the record, see [`~robust_vit_hf.RobustViTTrainer.create_model_card`].
        settings: of [`~robust_vit_hf.RobustViTConfig`].
        start: candidate with whose model the training begins; by default a copy of the original.
    """

    folder: Path
    side: Side
    train: datasets.Dataset
    outputs_of: Callable[[Side], Outputs]
    options: ImproveOptions
    facts: dict[str, str]
    settings: Mapping[str, Any] = field(default_factory=lambda: {"method": "swap"})
    start: Candidate | None = None

    @property
    def rate(self) -> float:
        return self.options.learning_rate or learning_rate(self.side.model)

    def __str__(self) -> str:
        start = " from the new layer" if self.start else ""
        return f"finetuned by {self.settings['method']}{start}, learning rate {self.rate:g}, {self.options.max_steps} steps"

    def candidates(self, notes: list[str]) -> list[Candidate]:
        """The model at each interpolation weight; none, and a note in `notes`, if the training diverges."""
        stage = Stage(self.folder, {"training": str(self), "composites": [MOVED, COVERED]})
        outcomes = stage.result()
        if outcomes is None:
            stage.begin()
            outcomes = self._measured()
            stage.finish(outcomes)
        if not outcomes:
            notes.append(
                f"The training diverged at the learning rate {self.rate:g}, and is left out: give a lower --learning_rate."
            )
        candidates = []
        for name, measured in outcomes.items():
            weight, outcome = float(name), {of: np.array(values, float) for of, values in measured.items()}
            outputs, build = partial(self.outputs, weight), partial(self.build, weight)
            fields: dict[str, Any] = {**outcome, "outputs": outputs, "build": build}
            candidates.append(Candidate(**fields, name=str(self), weight=weight))
        return candidates

    def _measured(self) -> dict[str, Any]:
        outcomes = {}
        try:
            for weight in INTERPOLATION_WEIGHTS:
                measured = measured_outcomes(self.outputs(weight))
                outcomes[f"{weight:g}"] = {name: values.tolist() for name, values in measured.items()}
        except (TrainingDiverged, NonFiniteLogits) as error:
            tqdm.write(f"  the training is left out: {error}", file=sys.stderr)
            return {}
        return outcomes

    def _between(self, weight: float) -> Side:
        return replace(self.side, model=interpolate(self.side.model, self.trained(), weight))

    def outputs(self, weight: float) -> Outputs:
        return self.outputs_of(self._between(weight))

    def trained(self) -> PreTrainedModel:
        """The finetuned model, which is trained if it was not saved. A second training gives the same weights."""
        folder = self.folder / TRAINING_FOLDER
        if not (folder / TRAINER_STATE_NAME).is_file():  # this file is written last
            self._train(folder)
        return load_model(str(folder)).to(self.side.model.device)

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

    def build(self, weight: float) -> tuple[PreTrainedModel, dict[str, dict]]:
        """The model at an interpolation weight, and its record."""
        model = self._between(weight).model  # which may have to be trained first
        run = read_json(self.folder / TRAINING_FOLDER / RUN_FILE)
        run |= {"model_name": self.options.output_dir.resolve().name}
        run["training"] |= {"interpolation weight of the finetuned weights": f"{weight:g}"}
        if self.start:
            run["training"] |= {"last layer at the start": str(self.start)}
        interpolated = {"interpolation_weight": weight, "before": self.side.name, "after": self.folder.name}
        return model, {RUN_FILE: run, INTERPOLATION_FILE: interpolated}
