"""Trainings of all weights, as candidates, each a stage in a folder of its own."""

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from ..data.transforms import input_size
from ..evaluation.measurement import NonFiniteLogits
from ..evaluation.other_backgrounds import Outputs
from ..evaluation.session import Side
from ..models.interpolation import INTERPOLATION_FILE, interpolate
from ..models.last_layer import LastLayer
from ..models.loading import load_model, weights_digest
from ..relevance.architectures import why_no_map
from ..training.callbacks import TrainingInterrupted
from ..training.checkpoints import last_checkpoint
from ..training.config import RobustViTConfig
from ..training.trainer import RobustViTTrainer, TrainingDiverged
from ..utils.files import RUN_FILE, read_json
from ..utils.stage import Stage
from .candidates import FIRST_INTERPOLATION_WEIGHTS, INTERPOLATION_WEIGHTS, Candidate, choose_cheapest, rank
from .options import ImproveOptions


# On photographs, swap with the original's output gained most on backgrounds that nothing was trained on; whether the relevance loss
# adds to it depends on the images. So rate and start are chosen by swap alone, and both are trained at these.
VARIANTS: dict[str, dict[str, Any]] = {
    "swap": {"method": "swap", "confidence_weight": 0.2},  # as beside the relevance loss
    "swap and relevance": {"confidence_target": "original", "background_swap": 0.75, "relevance_distance": "bce"},
}
FINALISTS, FIRST_SHARE = 2, 3  # trainings of all steps; all others are shorter by this factor
LAYER_FOLDER = "layer"  # of the model with a new layer that trainings begin with, deleted when the command ends
TRAINING_FOLDER = "training"  # within the folder of a training, likewise
SAVE_STEPS = 100  # between two checkpoints of a training of all steps


@dataclass(frozen=True)
class Training:
    """Settings of a training. `variant` is a name in [`VARIANTS`], or a method."""

    variant: str
    learning_rate: float
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    start: str = "original"  # the model that is finetuned: that, or the one with the new `layer`

    @property
    def name(self) -> str:
        return f"{self.variant.replace(' ', '-')}-from-{self.start}-{self.learning_rate}-{self.steps}"

    def __str__(self) -> str:
        start = "" if self.start == "original" else f" from the new {self.start}"
        return f"{self.variant}{start}, learning rate {self.learning_rate}, {self.steps} steps"


def first_trainings(
    method: str | None, learning_rates: Sequence[float], max_steps: int, starts: Sequence[str] = ("original",)
) -> list[Training]:
    """The short trainings: swap, or a named method, at each rate, from each start."""
    name, options = ("swap", VARIANTS["swap"]) if method is None else (method, {"method": method})
    steps = max(1, max_steps // FIRST_SHARE)
    return [Training(name, rate, steps, options, start) for start in starts for rate in learning_rates]


def finalists(
    trained: Mapping[Candidate, Training],
    before: Candidate,
    max_loss: float,
    max_steps: int,
    with_relevance: bool = True,
) -> list[Training]:
    """The settings that the rule puts first, for all steps, and these with the relevance loss, or the second."""
    order = [trained[candidate] for candidate in rank([*trained], before, max_loss)]
    ranked = list({training.name: training for training in order}.values())
    last = [replace(training, steps=max_steps) for training in ranked[:FINALISTS]]
    if last and with_relevance and last[0].variant == "swap":
        with_map = "swap and relevance"
        last[1:] = [replace(last[0], variant=with_map, options=VARIANTS[with_map])]
    return [training for training in last if training not in ranked]


def starting_models(
    side: Side, layers: Sequence[Candidate], max_loss: float, folder: Path
) -> tuple[dict[str, Side], dict[str, str]]:
    """The original, and maybe that with the chosen new layer, saved in `folder`; and how it was made."""
    before, chosen = layers[0], choose_cheapest(layers, layers[0], max_loss)
    if chosen is before:
        return {"original": side}, {}
    model, files = chosen.build(1.0)
    model.save_pretrained(folder / LAYER_FOLDER)
    side.processor.save_pretrained(folder / LAYER_FOLDER)
    of_layer = Side.of(model, side.processor, str(folder / LAYER_FOLDER))
    return {"original": side, "layer": of_layer}, files[RUN_FILE]["training"]


@dataclass(frozen=True)
class Trainings:
    """Trains models, and measures them on the selection images.

    Args:
        starts: models to finetune, by name: their folder, Hub id or name, and the model itself.
        outputs_of: computes the logits of a model on the selection images.
        facts: for the run's record, see [`~robust_vit_hf.RobustViTTrainer.create_model_card`].
        start_layer: how the last layer of the start `layer` was made, for the card.
    """

    folder: Path
    starts: Mapping[str, Side]
    train: datasets.Dataset
    outputs_of: Callable[[Side], Outputs]
    options: ImproveOptions
    facts: dict[str, str]
    start_layer: dict[str, str]

    def run_all(self, before: Candidate, notes: list[str]) -> list[Candidate]:
        """Train each start and rate for a third of the steps, then two for all. `notes` tell which diverge."""
        options, trained = self.options, {}
        with_relevance = options.method is None and why_no_map(self.starts["original"].model) is None
        first = first_trainings(options.method, options.learning_rates, options.max_steps, [*self.starts])
        for number, training in enumerate(first, 1):
            tqdm.write(f"  {number} of {len(first)}: {training}", file=sys.stderr)
            trained |= dict.fromkeys(self._candidates(training, notes), training)
        last = finalists(trained, before, options.max_loss, options.max_steps, with_relevance)
        for number, training in enumerate(last, 1):
            tqdm.write(f"  finalist {number}: {training}", file=sys.stderr)
            trained |= dict.fromkeys(self._candidates(training, notes), training)
        return [*trained]

    def _candidates(self, training: Training, notes: list[str]) -> list[Candidate]:
        stage = Stage(self.folder / training.name, asdict(training))
        outcomes = stage.result()
        if outcomes is None:
            stage.begin()
            outcomes = self._measured(training)
            stage.finish(outcomes)
        if not outcomes:
            notes.append(f"{training} diverged, and is left out.")
        candidates = []
        for weight, right in ((float(weight), right) for weight, right in outcomes.items()):
            candidates.append(
                Candidate(
                    np.array(right["mixed_rand"], float),
                    np.array(right["original"], float),
                    str(training),
                    weight,
                    training.learning_rate,
                    partial(self.outputs, training, weight),
                    partial(self.build, training, weight),
                )
            )
        return candidates

    def _measured(self, training: Training) -> dict[str, Any]:
        outcomes, complete = {}, training.steps == self.options.max_steps
        try:
            trained = self.trained(training)
            for weight in INTERPOLATION_WEIGHTS if complete else FIRST_INTERPOLATION_WEIGHTS:
                right = self.outputs_of(self._between(training, weight, trained)).right()
                outcomes[f"{weight:g}"] = {name: values.tolist() for name, values in right.items()}
        except (TrainingDiverged, NonFiniteLogits) as error:
            tqdm.write(f"  {training} is left out: {error}", file=sys.stderr)
            return {}
        return outcomes

    def _between(self, training: Training, weight: float, trained: PreTrainedModel) -> Side:
        start = self.starts[training.start]
        return replace(start, model=interpolate(start.model, trained, weight))

    def outputs(self, training: Training, weight: float) -> Outputs:
        return self.outputs_of(self._between(training, weight, self.trained(training)))

    def trained(self, training: Training) -> PreTrainedModel:
        """The finetuned model, which is trained unless its weights are there: again, they are the same."""
        folder = self.folder / training.name / TRAINING_FOLDER
        if not (folder / RUN_FILE).is_file():  # written last
            self._train(training, folder)
        return load_model(str(folder)).to(self.starts[training.start].model.device)

    def _train(self, training: Training, folder: Path) -> None:
        options, side = self.options, self.starts[training.start]
        set_seed(options.seed)
        config = RobustViTConfig(
            output_dir=str(folder),
            max_steps=training.steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type="cosine",  # whatever the number of images, unlike a decay by epochs
            per_device_train_batch_size=options.train_batch_size,
            seed=options.seed,
            eval_strategy="no",
            save_strategy="steps" if training.steps == options.max_steps else "no",
            save_steps=SAVE_STEPS,
            load_best_model_at_end=False,
            logging_strategy="no",
            report_to="none",
            bf16=options.bf16,
            use_cpu=side.model.device.type == "cpu",
            backgrounds=options.backgrounds,
            **training.options,
        )
        trainer = RobustViTTrainer(deepcopy(side.model), config, self.train, processing_class=side.processor)
        try:
            trainer.train(resume_from_checkpoint=last_checkpoint(str(folder)))
        except TrainingInterrupted as error:
            raise TrainingInterrupted(
                f"{str(error).partition('.')[0]} of {training}. Start the same command again: it goes on from here.",
                error.exit_status,
            ) from error
        trainer.save_model(_internal_call=True)
        trainer.create_model_card(**self.facts)

    def build(self, training: Training, weight: float, temperature: float) -> tuple[PreTrainedModel, dict[str, dict]]:
        """The model at an interpolation weight, its last layer divided by the temperature, and its record."""
        start = self.starts[training.start]
        model = self._between(training, weight, self.trained(training)).model
        if temperature != 1:
            last = LastLayer(model.eval(), input_size(start.processor))
            last.replace(last.weight / temperature, last.bias / temperature)
        run = read_json(self.folder / training.name / TRAINING_FOLDER / RUN_FILE)
        run |= {"weights": weights_digest(model), "model_name": self.options.output_dir.resolve().name}
        run["training"] |= self.start_layer if training.start == "layer" else {}
        run["training"] |= {"interpolation weight of the finetuned weights": f"{weight:g}"}
        interpolated = {"interpolation_weight": weight, "before": start.name, "after": training.name}
        return model, {RUN_FILE: run, INTERPOLATION_FILE: interpolated}
