"""The outcome of an improvement: the verdict on the report images, with its tables, page and model card."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..diagnosis.diagnose import DiagnosisReport, measure_images, write_report
from ..evaluation.examples import FIGURE_FILE, galleries
from ..evaluation.measurements.accuracy import Accuracy, measure_accuracy
from ..evaluation.results_files import write_finetuning_results
from ..evaluation.session import Session
from ..hub.model_card import write_card
from ..masks.own_masks import MaskedImages
from ..results.html_page import PAGE_FILE, Section, write_page
from ..results.intervals import Difference, Interval, Resamples
from ..results.run_results import Run, SetResult
from ..results.run_tables import tables_of
from ..results.tables import Table
from ..utils.files import RUN_FILE, read_json, write_json
from ..utils.privacy import public_name
from .options import ImproveOptions


DIAGNOSIS_FOLDER, PREDICTIONS_FOLDER, VERDICT_FILE = "diagnosis", "predictions", "verdict.json"
OUTCOMES = {
    "helped": "It helped",
    "unresolved": "It helped; what it costs on the images as they are is unresolved",
    "costly": "It helped on other backgrounds, and loses more than --max_loss on the images as they are: keep your model, or raise "
    "--max_loss",
    "too few": "Too few images to tell whether it helped",
    "worse": "It did not help: keep your model",
    "kept": "It did not help: keep your model. On the selection images, no candidate that --max_loss allows was clearly better",
}


@dataclass(frozen=True)
class Improvement:
    """Result of [`~robust_vit_hf.improvement.improve.improve`]. As text, the verdict, tables and folder.

    Args:
        max_loss: points of top-1 that the images as they are may lose.
        diagnosis: the models before and, unless no candidate was better, after.
        accuracy: tables of top-1, relevance and calibration on the images as they are; none if no candidate was better.
        notes: what was decided about the images, and what stands in the way.
        folder: the model folder.
    """

    max_loss: float
    diagnosis: DiagnosisReport
    candidates: Table
    accuracy: list[Table]
    notes: list[str]
    folder: Path

    @cached_property
    def _changes(self) -> dict[str, Interval] | None:
        """Changes of the measures; `None` if no candidate was better."""
        diagnoses = self.diagnosis.diagnoses
        return diagnoses["after"].change_from(diagnoses["before"]) if "after" in diagnoses else None

    @property
    def outcome(self) -> str:
        """One of [`OUTCOMES`], from the intervals on the report images."""
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
        """What to do, and the evidence for it."""
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


def measure_outcome(
    session: Session, images: MaskedImages, candidates: Table, notes: list[str], options: ImproveOptions
) -> Improvement:
    """Diagnose the sides of the session on its only set, the report images, and write results, card and page."""
    folder = options.output_dir
    diagnosis = measure_images(session, images, options, folder / DIAGNOSIS_FOLDER, within=PREDICTIONS_FOLDER)
    write_report(diagnosis, session, asdict(options))
    facts = {"model": session.sides["before"].name, "data": public_name(options.dataset), "masks": images.masks}
    sections, accuracy = [diagnosis.section(), Section("Candidates", [candidates])], []
    if "after" in session.sides:
        run = Run(
            measure_accuracy(
                session, Accuracy(options.batch_size, options.num_workers), f"{PREDICTIONS_FOLDER}/accuracy"
            )
        )
        write_finetuning_results(folder, run, session, asdict(options))
        if (figure := folder / FIGURE_FILE).is_file():  # of photographs, which are not uploaded with the model
            figure.replace(folder / DIAGNOSIS_FOLDER / FIGURE_FILE)
        accuracy = tables_of(run)
        if worse := worse_classes(run.sets["report"], session.classes):
            text = "Classes that certainly got worse on the images as they are, in points [95 % interval]"
            notes = [*notes, f"{text}: {', '.join(worse)}."]
        sections.append(Section("On the images as they are", accuracy, galleries=galleries(folder)))
    found = Improvement(options.max_loss, diagnosis, candidates, accuracy, [*notes, *diagnosis.warnings], folder)
    sections[0].notes = [*diagnosis.advice, *found.notes]  # of the diagnosis, and others
    write_json(folder / VERDICT_FILE, found.record())
    write_page(folder / PAGE_FILE, found.verdict.partition("\n")[0], facts, sections)
    if found.accuracy:
        write_json(folder / RUN_FILE, read_json(folder / RUN_FILE) | {"verdict": found.verdict, "notes": found.notes})
        write_card(folder)
    return found


def worse_classes(report: SetResult, names: Sequence[str]) -> list[str]:
    """The classes whose top-1 certainly fell, with the change of each."""
    labels, gains = report.classes[report.usable], report.gains().astype(float)
    of_classes = {label: np.where(labels == label, gains, np.nan) for label in range(len(names))}  # names may repeat
    changes = {name: found.interval(Difference) for name, found in Resamples.means(of_classes).items()}
    return [f"{names[label]} {found}" for label, found in changes.items() if found.high < 0]
