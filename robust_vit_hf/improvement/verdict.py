"""The outcome of an improvement: the model, and the verdict on the validation images, with tables, page and model card."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.find_images import Images
from ..data.transforms import input_size
from ..diagnosis.diagnose import measure_images
from ..diagnosis.report import DiagnosisReport, write_report
from ..evaluation.accuracy import measure_accuracy, worse_classes, write_finetuning_results
from ..evaluation.examples import FIGURE_FILE
from ..evaluation.other_backgrounds import composite_outputs
from ..evaluation.session import Session, load_sides
from ..hub.model_card import write_card
from ..hub.upload import MODEL_FILES
from ..models.interpolation import INTERPOLATION_FILE
from ..models.last_layer import LastLayer, NoLastLayer
from ..models.loading import weights_digest
from ..results.html_page import PAGE_FILE, Picture, Section, data_url, write_page
from ..results.intervals import Bootstrap
from ..results.tables import Table, tables_of
from ..utils.files import RUN_FILE, read_json, weights_written, write_json
from ..utils.privacy import public_name
from .candidates import Candidate, temperature_of
from .choice import OUTCOMES, Outcome


DIAGNOSIS_FOLDER = "diagnosis"
CANDIDATES_FOLDER = "candidates"  # of a model that is not better
CANDIDATES_FILE, VERDICT_FILE = "candidates.md", "verdict.json"
SHOWN_NOTES = 4  # notes that the terminal shows


@dataclass(frozen=True)
class Improvement:
    """Result of [`~robust_vit_hf.improvement.improve.improve`]. As text, the verdict, a table of three rows and the folder. If no candidate
    was chosen, it has no `outcome` (cross-validated changes), no `accuracy` (tables on the original images), and a diagnosis of only the
    model before. `key` is one of [`~robust_vit_hf.improvement.choice.OUTCOMES`]."""

    key: str
    outcome: Outcome | None
    diagnosis: DiagnosisReport
    candidates: Table
    accuracy: list[Table]
    notes: list[str]
    folder: Path
    model: str

    @property
    def verdict(self) -> str:
        if self.outcome is None:
            return f"{OUTCOMES[self.key]}. {self.diagnosis.diagnoses['before'].sentence}"
        return " ".join(self.outcome.sentences)

    def record(self) -> dict:
        record = {"outcome": self.key, "verdict": self.verdict, "notes": self.notes}
        return record | (self.outcome.record() if self.outcome else {})

    def fails(self, condition: str) -> bool:
        """Whether the outcome is what `--fail_if` names."""
        return self.key == condition

    def __str__(self) -> str:
        lines = ["", self.verdict, ""]
        if self.outcome:
            lines += [f"{self.outcome.table.title}:", "", self.outcome.table.markdown(), ""]
        lines += self.notes[:SHOWN_NOTES]
        lines += [f"{PAGE_FILE} has all {len(self.notes)} remarks."] if len(self.notes) > SHOWN_NOTES else []
        written = (
            "the model, its card, results and" if self.key == "better" else "no model, since yours is to be kept, but"
        )
        lines += ["", f"{self.folder} has {written} {PAGE_FILE}; the diagnosis is in {self.diagnosis.folder}."]
        if self.accuracy and self.key != "better":
            candidate = self.folder / CANDIDATES_FOLDER
            taken = f"robust-vit interpolate {self.model} {candidate} --weight 1 --output_dir …"
            lines.append(f"The candidate is in {candidate}. To use it all the same: {taken}")
        return "\n".join(lines)


def write_candidate(chosen: Candidate, before: Candidate, session: Session, folder: Path) -> Session:
    """Write the model of a candidate to a folder; return the session with this model as `after`. Its last layer, if it has
    one, is divided by a temperature that is fitted to the validation images."""
    side = session.sides["before"]
    side.processor.save_pretrained(folder)
    (model, files), temperature = chosen.build(), 1.0
    # If the original is always right, as it is if labels are its predictions, no temperature can be fitted.
    if not before.usual.all():
        with suppress(NoLastLayer):
            last = LastLayer(model.eval(), input_size(side.processor))
            temperature = temperature_of(chosen.outputs())
            last.replace(last.weight / temperature, last.bias / temperature)
    files[RUN_FILE]["weights"] = weights_digest(model)
    files[RUN_FILE]["training"]["temperature, fitted on the validation images"] = f"{temperature:.2f}"
    with weights_written(folder):
        model.save_pretrained(folder)
    (folder / INTERPOLATION_FILE).unlink(missing_ok=True)  # a training may have been chosen here before
    for name, content in files.items():
        write_json(folder / name, content)
    after = load_sides({"after": str(folder)}, session.protocol, session.accelerator)
    return replace(session, sides={**session.sides, **after})


def remove_model(folder: Path) -> None:
    """Remove a model that was written here before, with its card and results."""
    others = [f"{DIAGNOSIS_FOLDER}/{FIGURE_FILE}"]
    for path in [path for pattern in [*MODEL_FILES, *others] for path in folder.glob(pattern)]:
        if path.name not in (CANDIDATES_FILE, VERDICT_FILE):
            path.unlink(missing_ok=True)


def other_classes(session: Session) -> list[str]:
    """A sentence on the classes without images, if there are any: how far their mean logit moved, compared with the mean logit of the others on
    the validation images, and how often an image is predicted as one of them."""
    ((name, rows),) = session.sets.items()
    if rows.class_subset is None:
        return []
    gaps, taken = [], []
    for side in session.sides.values():
        logits = composite_outputs(side, session, 0).original
        has_images = np.isin(np.arange(logits.shape[1]), rows.class_subset)
        gaps.append(logits[:, ~has_images].mean(axis=1) - logits[:, has_images].mean(axis=1))
        taken.append(~has_images[logits.argmax(axis=1)])
    drawn = Bootstrap.means({"moved": gaps[1] - gaps[0]})["moved"]
    moved = replace(drawn, limit=math.inf).difference()
    return [
        f"On the `{name}` images, the mean logit of the classes without images ({(~has_images).sum()}) moved by {moved.shown(1, 3)}, compared with "
        f"the other classes (standard deviation of the logits: {logits.std():.1f}). Of the images, {100 * taken[0].mean():.1f} % were predicted as "
        f"one of them before, and {100 * taken[1].mean():.1f} % are now."
    ]


def measure_outcome(
    session: Session,
    images: Images,
    model_folder: Path | None,
    choice: tuple[str, Outcome | None],
    candidates: Table,
    chosen: Section,
    notes: list[str],
    attributes: Sequence[str],
) -> Improvement:
    """Diagnose the session's sides on the validation images, and write the page to its folder, and results and card of the
    new model, if there is one, to `model_folder`."""
    folder, source = session.folder, session.sets[images.name].source
    diagnosis = measure_images(session, images, attributes, folder / DIAGNOSIS_FOLDER)
    write_report(diagnosis, session)
    facts = {"model": session.sides["before"].name, "data": public_name(source), "masks": images.masks}
    diagnosed, tables = diagnosis.section(), []
    shown = Section("Objects on other backgrounds", plots=diagnosed.plots)
    sections = [chosen, shown, Section("Diagnosis", diagnosed.tables, notes=diagnosis.verdict.splitlines())]
    if model_folder is not None:
        results = measure_accuracy(session)
        write_finetuning_results(model_folder, results, session)
        if (figure := model_folder / FIGURE_FILE).is_file():  # photographs must not be uploaded with the model
            figure = figure.replace(folder / DIAGNOSIS_FOLDER / FIGURE_FILE)
            alt = "Images before and after, with maps of the predicted and of the true class."
            shown.plots.append(Picture("Original images", alt, data_url("png", figure.read_bytes()), "wide"))
        tables = tables_of(results)
        if not images.predicted and (worse := worse_classes(results[images.name], session.classes)):
            text = "Classes that are significantly worse on usual backgrounds, in points [95 % interval for all classes together]"
            notes = [*notes, f"{text}: {', '.join(worse)}."]
        sections.append(Section("On usual backgrounds", tables))
        chosen.notes.append(
            "The first table is cross-validated. The others measure the model on the images that chose it, so they are slightly too good."
        )
    improvement = Improvement(
        *choice, diagnosis, candidates, tables, [*notes, *diagnosis.warnings], folder, session.sides["before"].source
    )
    title, _, more = improvement.verdict.partition(". ")
    chosen.notes = [more, *chosen.notes] if more else chosen.notes
    sections.append(Section("Remarks", notes=[*diagnosis.advice, *improvement.notes]))
    write_json(folder / VERDICT_FILE, improvement.record())
    write_page(folder / PAGE_FILE, f"{title.rstrip('.')}.", facts, [section for section in sections if section.filled])
    if model_folder is not None:
        told = {"verdict": improvement.verdict, "notes": improvement.notes}
        write_json(model_folder / RUN_FILE, read_json(model_folder / RUN_FILE) | told)
        write_card(model_folder)
    return improvement
