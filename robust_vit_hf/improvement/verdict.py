"""The outcome of an improvement: the model, and the verdict on the test images, with its tables, page and model card."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..data.find_images import Images
from ..diagnosis.diagnose import measure_images
from ..diagnosis.report import DiagnosisReport, write_report
from ..evaluation.accuracy import measure_accuracy, worse_classes
from ..evaluation.examples import FIGURE_FILE, galleries
from ..evaluation.other_backgrounds import composite_outputs
from ..evaluation.results_files import write_finetuning_results
from ..evaluation.session import Session, load_sides
from ..hub.model_card import write_card
from ..models.interpolation import INTERPOLATION_FILE
from ..results.html_page import PAGE_FILE, Section, write_page
from ..results.intervals import Difference, Interval, Resamples
from ..results.run_results import Run
from ..results.summary import tables_of
from ..results.tables import Table
from ..utils.files import RUN_FILE, read_json, weights_written, write_json
from ..utils.privacy import public_name
from .candidates import Candidate, temperature_of


DIAGNOSIS_FOLDER, PREDICTIONS_FOLDER, VERDICT_FILE = "diagnosis", "predictions", "verdict.json"
OUTCOMES = {
    "helped": "It helped",
    "unresolved": "It helped; what it costs on the images as they are is unresolved",
    "costly": "It helped on other backgrounds, and loses more than --max_loss on the images as they are: keep your model, or raise "
    "--max_loss",
    "too few": "Too few images to tell whether it helped",
    "worse": "It did not help: keep your model",
    "healthy": "Keep your model: on the selection images, the background of another class costs it less than 5 points of top-1, so that "
    "there is little to gain, and nothing was trained",
    "kept": "It did not help: keep your model. On the selection images, no candidate that --max_loss allows was clearly better",
}


@dataclass(frozen=True)
class Improvement:
    """Result of [`~robust_vit_hf.improvement.improve.improve`]. As text, the verdict, tables and folder.

    Args:
        max_loss: points of top-1 that the images as they are may lose; `None` if nothing was trained.
        diagnosis: the models before and, if a candidate was better, after.
        accuracy: tables on the images as they are, if a candidate was better.
    """

    max_loss: float | None
    diagnosis: DiagnosisReport
    candidates: Table
    accuracy: list[Table]
    notes: list[str]
    folder: Path

    @cached_property
    def _changes(self) -> dict[str, Interval] | None:
        diagnoses = self.diagnosis.diagnoses
        return diagnoses["after"].change_from(diagnoses["before"]) if "after" in diagnoses else None

    @property
    def outcome(self) -> str:
        """One of [`OUTCOMES`], from the intervals on the test images."""
        if self.max_loss is None:
            return "healthy"
        if self._changes is None:
            return "kept"
        gain, loss = self._changes["mixed_rand"], self._changes["original"]
        if gain.high < 0:
            return "worse"
        if gain.low <= 0:
            return "too few"
        bound = -self.max_loss / 100
        return "costly" if loss.high < bound else "helped" if loss.low > bound else "unresolved"

    @property
    def verdict(self) -> str:
        diagnoses, text = self.diagnosis.diagnoses, OUTCOMES[self.outcome]
        if self._changes is None:
            return f"{text}. {diagnoses['before'].sentence}"
        return (
            f"{text}: top-1 on the backgrounds of other classes changes by {self._changes['mixed_rand']} points, and by "
            f"{self._changes['original']} on the images as they are.\nBefore: {diagnoses['before'].sentence}\nAfter: "
            f"{diagnoses['after'].sentence}"
        )

    def record(self) -> dict:
        return {"outcome": self.outcome, "verdict": self.verdict, "notes": self.notes}

    def __str__(self) -> str:
        tables = [self.diagnosis.table, *(self.accuracy or self.diagnosis.groups), self.candidates]
        texts = [text for table in tables for text in (f"{table.title}:", table.markdown())]
        kept = "the model, its card, results" if self.accuracy else "no model, since yours is to be kept,"
        place = f"{self.folder}: {kept} and {PAGE_FILE}; the diagnosis is in {self.diagnosis.folder}."
        return "\n\n".join(["", self.verdict, *self.notes, *texts, place])


def write_candidate(
    chosen: Candidate, before: Candidate, session: Session, is_written: bool, has_layer: bool
) -> Session:
    """Write the model of a candidate to the session's folder, unless that was done; return the session with it as `after`.

    Args:
        has_layer: whether the model has a last layer, in which a temperature, fitted on the selection images, can be put.
    """
    side, folder = session.sides["before"], session.folder
    if not is_written:
        # Where the original is right on all, as on images that have its predictions for labels, nothing tells how sure to be.
        cools = has_layer and not before.original.all()
        temperature = temperature_of(chosen.outputs()) if cools else 1.0
        model, files = chosen.build(temperature)
        files[RUN_FILE]["training"]["temperature, fitted on the selection images"] = f"{temperature:.2f}"
        with weights_written(folder):
            model.save_pretrained(folder)
        (folder / INTERPOLATION_FILE).unlink(missing_ok=True)  # of a training that was chosen here before
        for name, content in files.items():
            write_json(folder / name, content)
    side.processor.save_pretrained(folder)
    sides = load_sides({"after": str(folder)}, session.protocol, session.accelerator)
    return replace(session, sides={**session.sides, **sides})


def other_classes(session: Session) -> list[str]:
    """A sentence on the classes without images, if there are any: how far their mean logit moved against that of the others on the test
    images, and how often an image is taken for one of them."""
    ((name, rows),) = session.sets.items()
    if rows.class_subset is None:
        return []
    gaps, taken = [], []
    for side in session.sides.values():
        logits = composite_outputs(side, session, 0).original
        has_images = np.isin(np.arange(logits.shape[1]), rows.class_subset)
        gaps.append(logits[:, ~has_images].mean(axis=1) - logits[:, has_images].mean(axis=1))
        taken.append(~has_images[logits.argmax(axis=1)])
    moved = Resamples.means({"moved": gaps[1] - gaps[0]})["moved"].interval(Difference, -math.inf)
    return [
        f"On the `{name}` images, the mean logit of the {(~has_images).sum()} classes without images moved by {moved.shown(1, 3)} against that "
        f"of the others (standard deviation of the logits {logits.std():.1f}); {100 * taken[0].mean():.1f} % of the images were taken for one "
        f"of them before, and {100 * taken[1].mean():.1f} % are now."
    ]


def measure_outcome(
    session: Session,
    images: Images,
    candidates: Table,
    notes: list[str],
    attributes: Sequence[str],
    max_loss: float | None,
) -> Improvement:
    """Diagnose the session's sides on the test images, and write results, card and page to its folder."""
    folder, source = session.folder, session.sets[images.name].source
    diagnosis = measure_images(session, images, attributes, folder / DIAGNOSIS_FOLDER, within=PREDICTIONS_FOLDER)
    write_report(diagnosis, session)
    facts = {"model": session.sides["before"].name, "data": public_name(source), "masks": images.masks}
    sections, tables = [diagnosis.section(), Section("Candidates", [candidates])], []
    if "after" in session.sides:
        run = Run(measure_accuracy(session, f"{PREDICTIONS_FOLDER}/accuracy"))
        write_finetuning_results(folder, run, session)
        if (figure := folder / FIGURE_FILE).is_file():  # of photographs, which are not uploaded with the model
            figure.replace(folder / DIAGNOSIS_FOLDER / FIGURE_FILE)
        tables = tables_of(run)
        if worse := worse_classes(run.sets[images.name], session.classes):
            text = "Classes that certainly got worse on the images as they are, in points [95 % interval]"
            notes = [*notes, f"{text}: {', '.join(worse)}."]
        sections.append(Section("On the images as they are", tables, galleries=galleries(folder)))
    improvement = Improvement(max_loss, diagnosis, candidates, tables, [*notes, *diagnosis.warnings], folder)
    sections[0].notes = [*diagnosis.advice, *improvement.notes]  # of the diagnosis, and others
    write_json(folder / VERDICT_FILE, improvement.record())
    write_page(folder / PAGE_FILE, improvement.verdict.partition("\n")[0], facts, sections)
    if tables:
        run = read_json(folder / RUN_FILE) | {"verdict": improvement.verdict, "notes": improvement.notes}
        write_json(folder / RUN_FILE, run)
        write_card(folder)
    return improvement
