"""Training of candidates, and their measurement on the selection images. Each is a stage in a folder of its own."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from ..data.geometry import input_size
from ..evaluation.measurements.base import NonFiniteLogits
from ..evaluation.session import Session, Side
from ..models.interpolation import INTERPOLATION_FILE, interpolate
from ..models.last_layer import LastLayer, NoLastLayer
from ..models.loading import load_model
from ..models.model_digest import weights_digest
from ..relevance.architectures import why_no_map
from ..training.callbacks import TrainingInterrupted
from ..training.checkpoints import last_checkpoint
from ..training.config import RobustViTConfig
from ..training.trainer import RobustViTTrainer, TrainingDiverged
from ..utils.files import RUN_FILE, read_json, weights_written, write_json
from ..utils.stage import Stage
from .candidates import FIRST_MIXTURES, MIXTURES, Mixture, TrainingSettings, finalists, first_trainings
from .composites import SELECTION_COMPOSITES, Composites, composite_outputs
from .fit_layers import temperature_of
from .options import ImproveOptions


TRAINING_FOLDER = "training"  # within a candidate's folder, deleted when the command ends
SAVE_STEPS = 100  # between two checkpoints of a training of all steps


@dataclass(frozen=True)
class Trials:
    """Trains candidates and measures them on the selection images.

    Args:
        session: session with the original model and one set, the selection images.
        starts: models to finetune, by name: their folder, Hub id or name, and the model itself.
        train: images to train on, with masks and labels of the model.
        facts: for the run's record, see [`~robust_vit_hf.RobustViTTrainer.create_model_card`].
        layer: how the last layer of the start `layer` was made, for the card; empty without this start.
    """

    folder: Path
    session: Session
    starts: Mapping[str, Side]
    train: datasets.Dataset
    options: ImproveOptions
    facts: dict[str, str]
    layer: dict[str, str]
    attributes: Sequence[str] = ()  # of composites of the selection images

    def run_all(self, before: Mixture) -> Iterator[tuple[TrainingSettings, list[Mixture]]]:
        """Train and measure each start and rate for a third of the steps, then two candidates for all. Those that diverged have no
        mixtures."""
        options, found = self.options, []
        with_relevance = options.method is None and why_no_map(self.starts["original"].model) is None
        first = first_trainings(options.method, options.learning_rates, options.max_steps, [*self.starts])
        for number, settings in enumerate(first, 1):
            tqdm.write(f"  {number} of {len(first)}: {settings}", file=sys.stderr)
            found.append(mixtures := self._run(settings))
            yield settings, mixtures
        known = [one for mixtures in found for one in mixtures]
        last = finalists(known, before, options.max_loss, options.max_steps, with_relevance)
        for number, settings in enumerate(last, 1):
            tqdm.write(f"  finalist {number}: {settings}", file=sys.stderr)
            yield settings, self._run(settings)

    def _run(self, settings: TrainingSettings) -> list[Mixture]:
        """Train a candidate and measure its mixtures, unless it is complete."""
        stage = Stage(self.folder / settings.name, asdict(settings))
        values = stage.result()
        if values is None:
            stage.begin()
            values = self._measured(settings)
            stage.finish(values)
        return [
            Mixture(np.array(found["mixed_rand"], float), np.array(found["original"], float), settings, float(alpha))
            for alpha, found in values.items()
        ]

    def _measured(self, settings: TrainingSettings) -> dict[str, Any]:
        """Outcomes on the selection images, see [`Composites.right`], by the share of the finetuned weights."""
        options, values, start = self.options, {}, self.starts[settings.start]
        try:
            trained = self.trained(settings)
            for alpha in MIXTURES if settings.steps == options.max_steps else FIRST_MIXTURES:
                found = self._outputs(replace(start, model=interpolate(start.model, trained, alpha))).right()
                values[f"{alpha:g}"] = {name: right.tolist() for name, right in found.items()}
        except (TrainingDiverged, NonFiniteLogits) as error:
            tqdm.write(f"  {settings} is left out: {error}", file=sys.stderr)
            return {}
        return values

    def trained(self, settings: TrainingSettings) -> PreTrainedModel:
        """Finetuned model of a candidate, which is trained unless its weights are there: again, they are the same."""
        folder = self.folder / settings.name / TRAINING_FOLDER
        if not (folder / RUN_FILE).is_file():  # written last
            self._train(settings, folder)
        return load_model(str(folder)).to(self.session.accelerator.device)

    def _train(self, settings: TrainingSettings, folder: Path) -> None:
        options, side = self.options, self.starts[settings.start]
        set_seed(options.seed)
        config = RobustViTConfig(
            output_dir=str(folder),
            max_steps=settings.steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",  # whatever the number of images, unlike a decay by epochs
            per_device_train_batch_size=options.train_batch_size,
            seed=options.seed,
            eval_strategy="no",
            save_strategy="steps" if settings.steps == options.max_steps else "no",
            save_steps=SAVE_STEPS,
            load_best_model_at_end=False,
            logging_strategy="no",
            report_to="none",
            bf16=options.bf16,
            use_cpu=self.session.accelerator.device.type == "cpu",
            backgrounds=options.backgrounds,
            **settings.options,
        )
        trainer = RobustViTTrainer(deepcopy(side.model), config, self.train, processing_class=side.processor)
        try:
            trainer.train(resume_from_checkpoint=last_checkpoint(str(folder)))
        except TrainingInterrupted as error:
            raise TrainingInterrupted(
                f"{str(error).partition('.')[0]} of {settings}. Start the same command again: it goes on from here.",
                error.exit_status,
            ) from error
        trainer.save_model(_internal_call=True)
        trainer.create_model_card(**self.facts)

    def write(self, settings: TrainingSettings, alpha: float, folder: Path, before: Mixture) -> None:
        """Write a mixture with its record to a folder, with the temperature of a new layer, see [`NewLayers.write`], if it has one."""
        start = self.starts[settings.start]
        model = interpolate(start.model, self.trained(settings), alpha)
        temperature = 1.0 if before.original.all() else self._cool(replace(start, model=model))
        with weights_written(folder):
            model.save_pretrained(folder)
        run = read_json(self.folder / settings.name / TRAINING_FOLDER / RUN_FILE)
        run |= {"weights": weights_digest(model), "model_name": folder.resolve().name}
        run["training"] |= self.layer if settings.start == "layer" else {}
        run["training"] |= {"share of the finetuned weights": f"{alpha:g}"}
        run["training"]["temperature, fitted on the selection images"] = f"{temperature:.2f}"
        write_json(folder / RUN_FILE, run)
        mixture = {"alpha": alpha, "before": start.name, "after": settings.name}
        write_json(folder / INTERPOLATION_FILE, mixture)

    def _cool(self, side: Side) -> float:
        """Fit a temperature on the selection images, divide the last layer by it, and return it; 1 if the model has no last layer."""
        probe = torch.zeros(1, 3, *input_size(side.processor), device=self.session.accelerator.device)
        try:
            last = LastLayer(side.model.eval(), probe)
        except NoLastLayer:
            return 1.0
        temperature = temperature_of(self._outputs(side))
        last.replace(last.weight / temperature, last.bias / temperature)
        return temperature

    def _outputs(self, side: Side) -> Composites:
        passes = self.options.batch_size, self.options.num_workers
        return composite_outputs(side, self.session, SELECTION_COMPOSITES, passes, attributes=self.attributes)
