"""`robust-vit diagnose`: whether a model decides by the background of your images."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL.Image import Image
from torch import nn
from transformers import BaseImageProcessor

from ..data.attributes import chosen_attributes
from ..data.benchmarks import benchmarks, find_benchmark
from ..data.composition import draw_donors
from ..data.draw_images import choose_images
from ..data.find_images import Images, find_images
from ..data.groups import group_shares, groups_of, training_rows, training_shares
from ..evaluation.examples import EXAMPLES_FILE, may_be_shown
from ..evaluation.measurements.accuracy import Accuracy, measure_accuracy
from ..evaluation.measurements.base import measure
from ..evaluation.measurements.other_attributes import Attributes
from ..evaluation.measurements.other_backgrounds import Backgrounds
from ..evaluation.results_files import write_results_json
from ..evaluation.session import Session, Side, left_as_it_is, open_session
from ..evaluation.sets import EvaluationSet, load_evaluation_sets
from ..masks.own_masks import MaskedImages, MaskSettings, masked_images, one_mask_maker
from ..results.html_page import PAGE_FILE, Section, write_page
from ..results.intervals import Interval
from ..results.plots import page_picture
from ..results.set_tables import OF_CONDITIONS, imagenet_9_measures
from ..results.tables import Table
from ..utils.files import atomic_file, write_atomically
from ..utils.stage import Stage
from .attribute_verdict import AttributeDiagnosis, attributes_table
from .composed_examples import (
    NUM_EXAMPLES,
    RULE,
    Composed,
    composed_images,
    drawn_rows,
    save_composed,
    strip_figure,
)
from .export_images import FIFTYONE_FOLDER, IMAGES_FILE, export_fiftyone, image_table
from .options import DiagnoseOptions, OwnImagesOptions
from .slices import slice_tables, sliced, top1_table
from .verdict import Diagnosis, diagnosis_tables
from .what_to_photograph import (
    PAIRS_FILE,
    TAKEN_FILE,
    advice,
    matrices,
    pair_table,
    taken_gallery,
    taken_rows,
)


STRIP_FILE, ATTRIBUTES_FILE = "strip.png", "attributes.png"
MASKS_FOLDER, ATTRIBUTES_FOLDER = "masks", "attributes"


@dataclass(frozen=True)
class DiagnosisReport:
    """Result of [`diagnose`]. As text, the verdict, tables and folder.

    Args:
        diagnoses: by side, `before` and maybe `after`.
        attributes: what else decides, by side; empty if not measured.
        examples: images in all conditions, the first of which the strip shows.
        taken: images that the last model takes for the class of the background, see [`TAKEN_RULE`].
        edited: some of the examples with the attributes of others; empty if not measured.
        without_map: sentences that say why relevance is left out.
        groups: table of the groups of the images as they are, if they have any.
        beside: measures on ImageNet-9 by the head of their column; empty if not measured.
    """

    diagnoses: dict[str, Diagnosis]
    attributes: dict[str, AttributeDiagnosis]
    examples: list[Composed]
    taken: list[Composed]
    edited: list[Composed]
    images: MaskedImages
    folder: Path
    without_map: list[str]
    groups: list[Table]
    beside: dict[str, dict[str, Interval]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """A sentence for each model, and one more with attributes."""
        found: list[tuple[str, Diagnosis | AttributeDiagnosis]] = [*self.diagnoses.items(), *self.attributes.items()]
        if len(self.diagnoses) == 1:
            return "\n".join(one.sentence for _, one in found)
        return "\n".join(f"{side.capitalize()}: {one.sentence}" for side, one in found)

    @property
    def warnings(self) -> list[str]:
        """What stands in the way of the verdict, of any model, and what is left out."""
        found = [warning for diagnosis in self.diagnoses.values() for warning in diagnosis.warnings]
        return list(dict.fromkeys([*found, *self.images.notes, *self.without_map]))

    @cached_property
    def tables(self) -> list[Table]:
        """Measures, classes, pairs of class and background, groups, and attributes."""
        return [*diagnosis_tables(self.diagnoses, self.beside), *self.groups, *self.attribute_tables]

    @property
    def attribute_tables(self) -> list[Table]:
        """A table of attributes for each model; none if they were not measured."""
        return [attributes_table(found, side) for side, found in self.attributes.items()]

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """What was taken for what, see [`pair_table`]."""
        return pair_table(self.diagnoses, self.attributes)

    @property
    def advice(self) -> list[str]:
        """What to photograph next."""
        return advice(self.pairs, self.diagnoses)

    @property
    def table(self) -> Table:
        """The measures."""
        return self.tables[0]

    def figure(self) -> Figure:
        """Images in all conditions, with the predictions under each; a `ValueError` if no image could be composed."""
        if not self.examples:
            raise ValueError("No image could be composed with another background, so that there is none to show.")
        return strip_figure(self.examples[:NUM_EXAMPLES])

    def section(self) -> Section:
        """Section of a page."""
        notes, tables = [*self.advice, *self.warnings], [*self.tables, *matrices(self.pairs)]
        section = Section("Diagnosis: " + " ".join(self.verdict.splitlines()), tables, notes=notes)
        if self.edited:
            alt = "Images with attributes of others, with the predicted classes; the table of attributes holds the rates."
            section.plots.append(page_picture(strip_figure(self.edited), RULE, alt, "wide"))
        if self.taken:
            section.galleries.append(taken_gallery(self.taken))
        if self.examples:
            alt = "Images in all conditions, with the predicted classes; the tables hold the rates."
            section.plots.append(page_picture(self.figure(), RULE, alt, "wide"))
        return section

    def __str__(self) -> str:
        look = f" Look at {self.folder / STRIP_FILE}: {RULE}." if self.examples else ""
        parts = [self.verdict, *self.advice, *self.warnings]
        for table in (self.table, *self.groups, *self.attribute_tables):
            parts += [f"{table.title}:", table.markdown()]
        parts.append(f"results.json, tables and the predictions of each image: {self.folder}.{look}")
        return "\n\n".join(["", *parts])


def diagnose(
    model: str | nn.Module | Callable[[torch.Tensor], Any],
    dataset: str | None = None,
    *,
    processor: BaseImageProcessor | None = None,
    classes: Sequence[str] | None = None,
    transform: Callable[[Image], torch.Tensor] | None = None,
    **options,
) -> DiagnosisReport | None:
    """Measure whether a model decides by the background, see [`run_diagnosis`].

    Args:
        model: name, folder or Hub id; a model of transformers, with its `processor`; or any function from images `(B, 3, H, W)`,
            on the CPU but for a torch module, to logits `(B, C)`, with its `classes`, names in the order of the logits, and
            `transform`, from a PIL image to a tensor `(3, H, W)`. Its mode and device are afterwards as before.
        dataset: labelled images, as for `robust-vit diagnose`.
        options: others of [`DiagnoseOptions`].
    """
    if isinstance(model, str | Path):
        if any(one is not None for one in (processor, classes, transform)):
            raise ValueError(
                f"`{model}` has its own: leave out `processor`, `classes` and `transform`, or give the model as an object."
            )
        return run_diagnosis(DiagnoseOptions(model=str(model), dataset=dataset, **options))
    with left_as_it_is(model):
        given = Side.of_object(model, processor, classes, transform)
        return run_diagnosis(DiagnoseOptions(model=given.source, dataset=dataset, **options), given)


def run_diagnosis(options: DiagnoseOptions, given: Side | None = None) -> DiagnosisReport | None:
    """Measure one model or two, or one `given` in Python, on images with the backgrounds of other images. Writes `results.json`, `tables.md`,
    `tables.tex`, `images.csv`, `taken.csv`, `pairs.csv`, `strip.png`, `examples.parquet`, the predictions of each image and, with `html`, `report.html`.
    Results already in the output folder are reused.

    Returns:
        The report; `None` outside the main process.

    Raises:
        ValueError: images, masks or models do not fit together.
        OSError: a model or set does not exist, or another process is writing to the output folder.
    """
    folder, stage = options.output_dir, Stage(options.output_dir, {"command": "diagnose"})
    chosen_attributes(options.attributes)  # refuses unknown ones before models are loaded
    with open_session(options, options.protocol, stage, bf16=options.bf16, given=given) as session:
        with session.accelerator.main_process_first():
            found = load_images(options, session)
            grouped = groups_of(found.rows, found.name) is not None and options.dataset is not None
            weights = training_shares(options.dataset, options.split) if grouped else None
            of_slices = _check_slices(found, options)
        found = replace(found, rows=choose_images(found.rows, options.num_images))
        draw_donors(found.rows.with_format(None)["label"][:])  # refuses one class before masks, which take long
        beside = {}
        if options.imagenet_9 is not None:
            named = [(f"imagenet-9-{name}", options.imagenet_9) for name in OF_CONDITIONS.values()]
            with session.accelerator.main_process_first():
                sets = load_evaluation_sets(named, session.protocol, 1)
            accuracy = Accuracy(options.batch_size, options.num_workers, relevance=False)
            of_sides = imagenet_9_measures(measure_accuracy(session.with_sets(sets), accuracy, "imagenet-9"))
            several = len(of_sides) > 1
            beside = {f"ImageNet-9, {side}" if several else "ImageNet-9": one for side, one in of_sides.items()}
        side = session.sides["before"]
        with one_mask_maker():
            given = options.mask_method, options.mask_model, side.model, side.processor, options.bf16
            images = masked_images(
                found, found.name, session.classes, folder / MASKS_FOLDER, MaskSettings(*given), options.slices
            )
        rows = EvaluationSet.of(images.dataset, group_weights=weights)
        session = session.with_sets({found.name: rows})
        report = measure_images(session, images, options, folder)
        if report is not None:
            slices = slice_tables(images.dataset, options.slices, report.diagnoses, of_slices)
            report = replace(report, beside=beside, groups=[*report.groups, *slices])
            write_report(report, session, asdict(options))
            if options.export == "fiftyone":
                export_fiftyone(image_table(report.diagnoses), images.dataset, session, folder / FIFTYONE_FOLDER)
            if options.html:
                facts = {"model": side.name, "masks": images.masks}
                write_page(folder / PAGE_FILE, "Does the model decide by the background?", facts, [report.section()])
        return report


def _check_slices(images: Images, options: DiagnoseOptions) -> dict[str, dict[str, float] | None]:
    """Shares of the values of `slices`, and of their pairs, among the training images, if there are any; refuses columns that the images
    lack before masks are made."""
    known = images.rows.column_names
    if missing := [column for column in options.slices if column not in known]:
        raise ValueError(f"`{options.dataset}` has no column `{missing[0]}` for --slices: it has {', '.join(known)}.")
    for column in options.slices:
        groups_of(images.rows, options.split, column)  # refuses images without a value before masks are made
    train = training_rows(options.dataset, options.split) if options.slices else None
    if train is None:
        return {}
    return {name: group_shares(train, "train", *of) for name, of in sliced(options.slices).items()}


def measure_images(
    session: Session, images: MaskedImages, options: OwnImagesOptions, folder: Path, *, within: str = ""
) -> DiagnosisReport | None:
    """Measure the sides of a session on its only set, of these images, with predictions `within` its folder. Only the main process
    returns a report."""
    ((name, measured),) = measure(session, Backgrounds(options.batch_size, options.num_workers), within).items()
    attributes = measure_attributes(session, options)
    if not session.accelerator.is_main_process:
        return None
    diagnoses = {side: Diagnosis(found.columns, session.classes) for side, found in measured.items()}
    last, shown = [*diagnoses.values()][-1], may_be_shown(images.dataset)
    drawn, taken = drawn_rows(images.dataset, diagnoses["before"]), [row for row in taken_rows(last) if shown[row]]
    examples, most_taken = (composed_images(session, images.dataset, diagnoses, rows) for rows in (drawn, taken))
    edited = composed_images(session, images.dataset, attributes, drawn[:NUM_EXAMPLES]) if attributes else []
    groups = groups_of(images.dataset, name)
    tables = [] if groups is None else [top1_table(name, diagnoses, groups, session.sets[name].group_weights)]
    pictures = examples, most_taken, edited
    return DiagnosisReport(diagnoses, attributes, *pictures, images, folder, session.without_map, tables)


def measure_attributes(session: Session, options: OwnImagesOptions) -> dict[str, AttributeDiagnosis]:
    """What else than the background decides, by side, on the only set of a session; empty without attributes, and outside the main
    process."""
    if not options.attributes:
        return {}
    attributes = Attributes(options.batch_size, options.num_workers, chosen_attributes(options.attributes))
    (measured,) = measure(session, attributes, ATTRIBUTES_FOLDER).values()
    if not session.accelerator.is_main_process:
        return {}
    return {side: AttributeDiagnosis(found.columns, attributes.names) for side, found in measured.items()}


def load_images(options: DiagnoseOptions, session: Session) -> Images:
    """The labelled images to diagnose on."""
    if options.dataset is not None and options.dataset not in benchmarks():
        return find_images(options.dataset, options.split, ("label",), masks=options.mask_folder).labelled()
    benchmark = options.dataset or find_benchmark(session.classes)
    if benchmark is None:
        raise ValueError("This model has classes of its own: name labelled images of them with --dataset.")
    if options.is_given("split") or options.mask_folder is not None:
        raise ValueError(
            f"`{benchmark}` has one set to diagnose on, with masks: leave out --split and --masks FOLDER."
        )
    known = benchmarks()[benchmark]
    sets = known.evaluation_sets(max(options.num_images, 2 * len(known.class_names)))  # two of each class
    name = next(name for name in sets if name not in known.shifted)
    return Images(sets[name], benchmark, name)


def write_report(report: DiagnosisReport, session: Session, settings: dict) -> None:
    """Write the files of a report, with the `settings` of the command."""
    folder, settings = report.folder, {name: value for name, value in settings.items() if value != []}
    of_images, last = image_table(report.diagnoses), [*report.diagnoses.values()][-1]
    csv = {IMAGES_FILE: of_images, TAKEN_FILE: of_images.iloc[taken_rows(last)], PAIRS_FILE: report.pairs}
    for name, table in csv.items():
        write_atomically(folder / name, table.to_csv(index=False))
    if report.examples:
        with atomic_file(folder / STRIP_FILE) as partial:
            report.figure().savefig(partial, dpi=120, format="png")
        save_composed(report.examples, folder / EXAMPLES_FILE)
    if report.edited:
        with atomic_file(folder / ATTRIBUTES_FILE) as partial:
            strip_figure(report.edited).savefig(partial, dpi=120, format="png")
    facts: dict[str, Any] = {"masks": report.images.masks, "tables": [asdict(table) for table in report.tables]}
    facts |= {"num_images": len(report.images.dataset), "num_rejected": report.images.rejected}
    facts["diagnosis"] = {
        side: {
            "verdict": found.verdict,
            "sentence": found.sentence,
            "warnings": found.warnings,
            "num_mixed": found.num_mixed,
            "measures": {name: asdict(interval) for name, interval in found.measures.items()},
            "by_class": found.by_class(),
            "by_pair": found.by_pair(),
        }
        for side, found in report.diagnoses.items()
    }
    if report.attributes:
        facts["attributes"] = {side: found.record() for side, found in report.attributes.items()}
    facts["advice"] = report.advice
    parts: list[str | Table] = [report.verdict, *report.advice, *report.warnings, *report.tables]
    write_results_json(session, folder, settings | {"protocol": session.protocol}, facts, parts)
