"""Training and measurement of candidates, each in a folder of its own, once."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from ..diagnosis.verdict import Diagnosis
from ..evaluation.image_passes import NonFiniteLogits
from ..evaluation.measurements.other_backgrounds import Backgrounds
from ..evaluation.session import Session, Side
from ..models.loading import load_model
from ..models.weight_mixture import interpolate
from ..training.checkpoints import last_checkpoint
from ..training.config import RobustViTConfig
from ..training.interrupts import TrainingInterrupted
from ..training.trainer import RobustViTTrainer, TrainingDiverged
from ..utils.files import RUN_FILE, read_json, write_json
from .candidates import FIRST_MIXTURES, MIXTURES, ORIGINAL, Candidate, Measured
from .options import ImproveOptions


CANDIDATE_FILE = "candidate.json"  # written last, with what was measured
SAVE_STEPS = 100  # between two checkpoints of a training of all steps


def check_counts(diagnosis: Diagnosis, what: str) -> None:
    """Refuse images of which none can be measured.

    Args:
        what: what the images do.

    Raises:
        ValueError: no object could be put on the background of another class.
    """
    if not diagnosis.num_mixed:
        raise ValueError(
            f"Of the {len(diagnosis)} images that {what}, none could be put on the background of another class: every object fills "
            "the image, or lies outside of what the model sees. Give more images, or other masks."
        )


@dataclass(frozen=True)
class Trials:
    """Trains candidates and measures them on the images that choose.

    Args:
        folder: folder of the candidates' folders.
        session: session with the original model and one set, the images that choose.
        train: images to train on, with masks and labels of the model.
        facts: for the run's record, see [`~robust_vit_hf.RobustViTTrainer.create_model_card`].
    """

    folder: Path
    session: Session
    train: datasets.Dataset
    options: ImproveOptions
    facts: dict[str, str]

    @property
    def _side(self) -> Side:
        return self.session.sides["before"]

    def run(self, candidate: Candidate) -> list[Measured]:
        """Train a candidate, unless it is complete, and measure it and its mixtures with the original. A candidate that
        diverged has none."""
        folder = self.folder / candidate.name
        known = read_json(folder / CANDIDATE_FILE)
        if known is not None:
            return [
                Measured(
                    np.array(found["mixed_rand"], dtype=float),
                    np.array(found["original"], dtype=float),
                    candidate,
                    float(alpha),
                )
                for alpha, found in known.items()
            ]
        try:
            trained = self.trained(candidate)
            measured = []
            for alpha in MIXTURES if candidate.steps == self.options.max_steps else FIRST_MIXTURES:
                mixed = interpolate(self._side.model, trained, alpha)
                found = self.diagnose(f"{candidate.name}, {alpha:g} of its weights", mixed)
                measured.append(Measured.of(candidate, alpha, found))
        except (TrainingDiverged, NonFiniteLogits) as error:
            tqdm.write(f"  {candidate} is left out: {error}", file=sys.stderr)
            measured = []
        results = {
            f"{one.alpha:g}": {"mixed_rand": one.mixed_rand.tolist(), "original": one.original.tolist()}
            for one in measured
        }
        folder.mkdir(parents=True, exist_ok=True)  # which a training that diverged has deleted, if it saved nothing
        write_json(folder / CANDIDATE_FILE, results)
        return measured

    def trained(self, candidate: Candidate) -> PreTrainedModel:
        """Finetuned model of a candidate, which is trained unless its weights are there: again, they are the same."""
        folder = self.folder / candidate.name
        if (folder / RUN_FILE).is_file() and any(folder.glob("*.safetensors")):  # the record is written last
            return load_model(str(folder)).to(self.session.accelerator.device)
        set_seed(self.options.seed)
        config = RobustViTConfig(
            output_dir=str(folder),
            max_steps=candidate.steps,
            learning_rate=candidate.learning_rate,
            lr_scheduler_type="cosine",  # whatever the number of images, unlike a decay by epochs
            per_device_train_batch_size=self.options.train_batch_size,
            seed=self.options.seed,
            eval_strategy="no",
            save_strategy="steps" if candidate.steps == self.options.max_steps else "no",
            save_steps=SAVE_STEPS,
            load_best_model_at_end=False,
            logging_strategy="no",
            report_to="none",
            bf16=self.options.bf16,
            use_cpu=self.session.accelerator.device.type == "cpu",
            backgrounds=self.options.backgrounds,
            **candidate.options,
        )
        model, processor = load_model(self.options.model), self._side.processor
        trainer = RobustViTTrainer(model, config, self.train, processing_class=processor)
        try:
            trainer.train(resume_from_checkpoint=last_checkpoint(str(folder)))
        except TrainingInterrupted as error:
            raise TrainingInterrupted(
                f"{str(error).partition('.')[0]} of {candidate}. Start the same command again: it goes on from here.",
                error.exit_status,
            ) from error
        trainer.save_model(_internal_call=True)
        trainer.create_model_card(**self.facts)
        return trainer.accelerator.unwrap_model(trainer.model)

    def original(self) -> Measured:
        """The original model, measured once: weights of candidates are deleted when the choice is made, which a prediction that
        differs on another device would change.

        Raises:
            ValueError: no image counts.
        """
        path, kinds = self.folder / f"{ORIGINAL}.json", ("mixed_rand", "original")
        known = read_json(path)
        if known is None:
            diagnosis = self.diagnose(ORIGINAL, self._side.model)
            check_counts(diagnosis, "choose")
            of_kind = diagnosis.measures
            text = f"  your model: top-1 {of_kind['original']}, on the backgrounds of other classes {of_kind['mixed_rand']}"
            tqdm.write(text, file=sys.stderr)
            known = {name: diagnosis.values[name].tolist() for name in kinds}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
        mixed_rand, original = (np.array(known[name], dtype=float) for name in kinds)
        return Measured(mixed_rand, original, None, 0.0)

    def diagnose(self, name: str, model: PreTrainedModel) -> Diagnosis:
        """Measure a model on the images that choose. `name` is shown with the progress."""
        (rows,) = self.session.sets.values()
        backgrounds = Backgrounds(
            self.options.batch_size, self.options.num_workers, ("original", "mixed_rand"), relevance=False
        )
        side = replace(self._side, model=model)  # its digests are of the original, and not read: nothing is stored
        found = backgrounds.measure(side, rows, self.session, name, None)
        return Diagnosis(found.columns, self.session.classes)
