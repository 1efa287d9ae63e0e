"""`robust-vit diagnose`: whether a model decides by the background of your images."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn
from transformers import BaseImageProcessor

from ..data import emoji_shift
from ..data.background_edits import chosen_attributes, draw_donors
from ..data.balanced_splits import choose_images
from ..data.copies import without_copies
from ..data.find_images import Images, find_images, write_left_out
from ..data.groups import group_shares, groups_of, training_rows
from ..data.known_sets import BUNDLED_BENCHMARK
from ..data.schema import may_be_shown
from ..evaluation.other_backgrounds import Backgrounds
from ..evaluation.session import Session, Side, given_model, measure, open_session, save_predictions
from ..masks.choose_mask_maker import MaskSettings, masked_images
from ..results.html_page import PAGE_FILE, write_page
from ..results.run_results import PREDICTIONS_FILE
from .example_strip import NUM_EXAMPLES, composed_images, drawn_rows, taken_rows
from .linear_probe import CrossValidatedProbe, LinearProbe, PhotographsDiagnosis
from .options import DiagnoseOptions
from .report import DiagnosisReport, top1_table, write_report
from .verdict import AttributeDiagnosis, Diagnosis


MASKS_FOLDER = "masks"
ALL_CONDITIONS = Backgrounds()


def diagnose(
    model: str | nn.Module | Callable[[torch.Tensor], Any] | None = None,
    dataset: str | None = None,
    *,
    processor: BaseImageProcessor | None = None,
    classes: Sequence[str] | None = None,
    transform: Callable[[Image], torch.Tensor] | None = None,
    **options,
) -> DiagnosisReport | None:
    """Measure whether a model decides by the background, see [`run_diagnosis`].

    Args:
        model: name, folder or Hub id; a model of transformers, with its `processor`; or any function from
            images `(B, 3, H, W)` to logits `(B, C)`, with the names of its `classes`, and a `transform` from a PIL
            image to a tensor `(3, H, W)`. Without one, it measures whether images invite a shortcut, see
            [`CrossValidatedProbe`].
        dataset: labelled images, as for `robust-vit diagnose`.
        options: other options of [`DiagnoseOptions`].
    """
    if model is None:
        return run_diagnosis(DiagnoseOptions(dataset=dataset, **options))
    with given_model(model, processor=processor, classes=classes, transform=transform) as (name, given):
        return run_diagnosis(DiagnoseOptions(model=name, dataset=dataset, **options), given)


def run_diagnosis(options: DiagnoseOptions, given: Side | None = None) -> DiagnosisReport | None:
    """Measure one model or two on composites, and write the files of the report (listed in docs/diagnose.md). The first
    model may be `given` in Python; without one, a [`LinearProbe`] is fitted. Returns `None` outside the main
    process."""
    folder = options.output_dir
    chosen_attributes(options.attributes)  # rejects unknown names before models are loaded
    name, first = options.model or "", given
    if options.model is None and options.dataset is not None:
        first = LinearProbe.for_images(options.dataset, options.split)
        name = first.source
    models = name, options.compare, options.protocol
    with open_session(
        *models, folder, bf16=options.bf16, given=first, passes=options.passes, settings=asdict(options)
    ) as session:
        with session.accelerator.main_process_first():
            images = load_images(options, session)
            if groups_of(images.rows, images.name) is not None:
                train = training_rows(images.source, options.split)
                images = replace(images, group_weights=group_shares(train, "train"))
        images = replace(images, rows=choose_images(images.rows, options.num_images))
        # Rejects images of one class before masks are made, which takes long.
        draw_donors(images.rows.with_format(None)["label"][:])
        if images.source != BUNDLED_BENCHMARK:
            with session.accelerator.main_process_first():
                images = without_copies({images.name: images})[images.name]
        side = session.sides["before"]
        making = MaskSettings(options.mask_method, options.mask_model, side.model, side.processor, options.bf16)
        made = masked_images(folder, {MASKS_FOLDER: images}, session.classes, making)
        (images,) = write_left_out(made, folder)
        measured = session.with_images(images)
        report = measure_images(measured, images, options.attributes, folder)
        if report is not None:
            write_report(report, measured)
            if options.html:
                facts = {"model": session.sides["before"].name, "masks": images.masks}
                decides = "Does the model decide by the background?"
                title = decides if options.model else "Do the photographs invite a shortcut?"
                write_page(folder / PAGE_FILE, title, facts, [report.section()])
        return report


def measure_backgrounds(session: Session, measurement: Backgrounds = ALL_CONDITIONS) -> dict[str, Diagnosis]:
    """Diagnosis by side, on the only set of a session."""
    is_fitted = isinstance(session.sides["before"], LinearProbe)
    of_folds = CrossValidatedProbe(replace(measurement, relevance=False)) if is_fitted else measurement
    (measured,) = measure(session, of_folds).values()
    kind = PhotographsDiagnosis if is_fitted else Diagnosis
    return {side: kind(of_side, session.classes) for side, of_side in measured.items()}


def measure_attributes(session: Session, attributes: Sequence[str]) -> dict[str, AttributeDiagnosis]:
    """Diagnosis of these attributes by side, on the only set of a session; empty without attributes."""
    if not attributes:
        return {}
    measurement = Backgrounds(("original",), chosen_attributes(attributes), relevance=False)
    of_folds = CrossValidatedProbe(measurement) if isinstance(session.sides["before"], LinearProbe) else measurement
    (measured,) = measure(session, of_folds).values()
    return {side: AttributeDiagnosis(of_side, measurement.attributes) for side, of_side in measured.items()}


def measure_images(session: Session, images: Images, names: Sequence[str], folder: Path) -> DiagnosisReport | None:
    """Measure the sides of a session on its only set, which has these images, and the attributes `names`."""
    diagnoses, attributes = measure_backgrounds(session), measure_attributes(session, names)
    if not session.accelerator.is_main_process:
        return None
    saved = {side: of.columns for side, of in diagnoses.items()}
    for side, of in attributes.items():
        saved[side] = saved[side].join(of.columns[of.columns.columns.difference(saved[side].columns, sort=False)])
    save_predictions(folder / PREDICTIONS_FILE, session, {images.name: saved})
    rows, last = images.rows, [*diagnoses.values()][-1]
    drawn, shown = drawn_rows(rows, diagnoses["before"]), may_be_shown(rows)
    examples = composed_images(session, rows, diagnoses, drawn)
    taken = composed_images(session, rows, diagnoses, [row for row in taken_rows(last) if shown[row]])
    edited = composed_images(session, rows, attributes, drawn[:NUM_EXAMPLES]) if attributes else []
    groups = groups_of(rows, images.name)
    tables = [] if groups is None else [top1_table(images.name, diagnoses, groups, images.group_weights)]
    tables += [of.told_table() for of in diagnoses.values() if isinstance(of, PhotographsDiagnosis)]
    return DiagnosisReport(diagnoses, attributes, examples, taken, edited, images, folder, session.without_map, tables)


def load_images(options: DiagnoseOptions, session: Session) -> Images:
    if options.dataset not in (None, BUNDLED_BENCHMARK):
        masks, held_out = options.mask_folder, options.hold_out
        return find_images(options.dataset, options.split, ("label",), masks=masks, held_out=held_out).labelled()
    if options.dataset is None and not emoji_shift.has_classes(session.classes):
        raise ValueError("No bundled images have the classes of this model: give labelled images with --dataset.")
    count = max(options.num_images, 2 * len(emoji_shift.CLASS_NAMES))  # two of each class
    return Images(emoji_shift.load_evaluation_sets(count)["val"], BUNDLED_BENCHMARK, "val")
