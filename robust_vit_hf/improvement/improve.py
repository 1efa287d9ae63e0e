"""`robust-vit improve`: from a model and photographs to a better model, or to the advice to keep it."""

import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import torch
from pyarrow import parquet as pq
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from ..data.dataset_digest import dataset_identity
from ..data.find_images import Images, write_left_out
from ..data.mask_checks import confirmed
from ..data.transforms import input_size
from ..diagnosis.diagnose import MASKS_FOLDER, measure_attributes, measure_backgrounds
from ..evaluation.other_backgrounds import MOVED, check_composed, composite_outputs
from ..evaluation.session import Session, Side, given_model, open_session
from ..masks.choose_mask_maker import MaskSettings, makes_masks, masked_images
from ..masks.foreground_layer import ConfirmedMasks
from ..masks.options import Dinov2Options
from ..models.last_layer import NoLastLayer
from ..models.model_names import resolve
from ..relevance.relevance_map import forward_logits
from ..results.html_page import Section
from ..results.plots import page_picture
from ..utils.files import write_atomically
from ..utils.images import to_rgb
from .candidates import (
    INTERPOLATION_WEIGHTS,
    START,
    VALIDATION_COMPOSITES,
    Candidate,
    compute_features,
    layer_candidates,
    training_composites,
)
from .choice import candidates_figure, candidates_table, choose, cross_validated, resolution
from .finetune import Finetuning
from .images import classes_with_images, images_by_role, with_these_classes_alone
from .options import ImproveOptions
from .verdict import (
    CANDIDATES_FILE,
    CANDIDATES_FOLDER,
    VERDICT_FILE,
    Improvement,
    measure_outcome,
    other_classes,
    remove_model,
    write_candidate,
)


# Seconds for a mask of 336×252 pixels on one core, by method (`python -m experiments real_photographs masks`); `None` for the others.
SECONDS_PER_MASK = {"rembg": 1.7, None: 0.36}
FITTING = 30  # seconds to load models and fit layers


def improve(
    model: str | PreTrainedModel,
    dataset: str,
    output_dir: str | Path,
    *,
    processor: BaseImageProcessor | None = None,
    **options,
) -> Improvement:
    """Finetune a model so that it decides by the object, see [`run_improvement`].

    Args:
        model: name, folder or Hub id; or a model of transformers, which is not changed, with its `processor`.
        dataset: labelled images, as for `robust-vit improve`.
        output_dir: folder to write. If a candidate is better than the model, it becomes a model folder.
        options: other options of [`ImproveOptions`].
    """
    if not isinstance(model, str | Path):
        _check_can_be_trained(model)
        model = deepcopy(model).float().requires_grad_()  # as from a folder
    options["output_dir"] = output_dir  # which the options turn into a path
    with given_model(model, processor=processor) as (name, given):
        return run_improvement(ImproveOptions(model=name, dataset=dataset, **options), given)


def _check_can_be_trained(model: PreTrainedModel) -> None:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"A `{type(model).__name__}` cannot be trained: give a model of transformers, with its `processor`. `diagnose` takes any function."
        )
    config = deepcopy(model.config)
    config.architectures = [type(model).__name__]  # as it is saved
    with torch.device("meta"):
        of_class = AutoModelForImageClassification.from_config(config)
    if type(of_class) is not type(model):
        raise ValueError(
            f"A saved copy of this `{type(model).__name__}` would be loaded as a `{type(of_class).__name__}`: give its configuration a `model_type` of its own, "
            "and register both with `AutoConfig` and `AutoModelForImageClassification`."
        )
    shapes = [{name: weight.shape for name, weight in of.state_dict().items()} for of in (model, of_class)]
    if differing := sorted(shapes[0].items() ^ shapes[1].items()):
        raise ValueError(
            f"A saved copy of this `{type(model).__name__}` could not be loaded, since its `{differing[0][0]}` was changed: undo the change, or "
            "write a class for this model."
        )


def run_improvement(options: ImproveOptions, given: Side | None = None) -> Improvement:
    """Find images, make masks, compute features, build candidates, choose one, and write and measure it. Complete steps are skipped."""
    models, notes = (options.model, None, options.protocol), []
    with open_session(
        *models, options.output_dir, bf16=options.bf16, given=given, passes=options.passes, settings=asdict(options)
    ) as session:
        if session.accelerator.num_processes > 1:
            raise ValueError("`improve` works in one process: leave out `accelerate launch`.")
        images, pool = images_by_role(session, options, notes)
        if options.only_these_classes:
            session, images = with_these_classes_alone(session, images)
        side = session.sides["before"]
        share = options.shares[-1]
        _say(0, f"{side.name}, {_estimate(session, images, options)}")
        images = with_masks(images, session, options, notes)
        classes = classes_with_images(images, session.classes, notes)
        train, validation = (session.with_images(of_role, options.dataset, classes) for of_role in images.values())

        _say(2, f"Candidates, measured on {len(images['validation'].rows)} validation images")
        diagnosis = measure_backgrounds(validation)["before"]
        check_composed(diagnosis.num_mixed, len(diagnosis.columns["label"]), "validation")
        tqdm.write(f"  your model: {diagnosis.sentence}", file=sys.stderr)
        attributes = _attributes(validation, options.attributes, notes)
        if keeps := not attributes and diagnosis.verdict == "no sign":
            right = diagnosis.values["original"], diagnosis.values["mixed_rand"]
            candidates = [Candidate(*right, *right)]
        else:
            candidates = _candidates(train, validation, pool, attributes, images, options, notes)
        before, predicted = candidates[0], images["validation"].predicted
        chosen, choice = choose(candidates, share, predicted), ("already_robust" if keeps else "kept", None)
        table = candidates_table(candidates, chosen, share)
        write_atomically(session.folder / CANDIDATES_FILE, f"{table.title}:\n\n{table.markdown()}\n")
        section, model_folder = Section("Choice", notes=[f"All candidates are in {CANDIDATES_FILE}."]), None
        (session.folder / VERDICT_FILE).unlink(missing_ok=True)  # after a kill, it must not count for another model
        if chosen is not before:
            labels = validation.sets["validation"].labels
            outcome = cross_validated(candidates, labels, options.shares, options.seed, predicted)
            choice, section.tables = (outcome.key, outcome), [outcome.table]
            caption = "Top-1 of all candidates on usual and on other backgrounds"
            alt = f"A point for each candidate; {CANDIDATES_FILE} holds the values."
            section.plots.append(page_picture(candidates_figure(candidates, chosen, share), caption, alt))
            _say(3, f"Model: {chosen}")
            # `from_pretrained` finds a model in the output folder only if it is better.
            model_folder = session.folder / ("" if outcome.key == "better" else CANDIDATES_FOLDER)
            validation = write_candidate(chosen, before, validation, model_folder)
            notes += other_classes(validation)
        if model_folder != session.folder:
            remove_model(session.folder)
        if model_folder != session.folder / CANDIDATES_FOLDER:
            shutil.rmtree(session.folder / CANDIDATES_FOLDER, ignore_errors=True)
        _say(4, f"Diagnosis on {len(images['validation'].rows)} validation images")
        shown = images["validation"]
        return measure_outcome(validation, shown, model_folder, choice, table, section, notes, options.attributes)


def with_masks(
    images: dict[str, Images], session: Session, options: ImproveOptions, notes: list[str]
) -> dict[str, Images]:
    counts = {role: len(of_role.rows) for role, of_role in images.items()}
    _say(1, f"Masks of {counts['train']} training and {counts['validation']} validation images")
    places, side = {f"{MASKS_FOLDER}/{role}": images[role] for role in images}, session.sides["before"]
    making = MaskSettings(options.mask_method, options.mask_model, side.model, side.processor, options.bf16)
    made = masked_images(session.folder, places, session.classes, making)
    images = dict(zip(images, write_left_out(made, session.folder), strict=True))
    notes += [f"`train`: {note}" for note in images["train"].notes]
    return images


def _attributes(validation: Session, names: list[str], notes: list[str]) -> list[str]:
    """Attributes that the original model decides by, except the background, which all composites exchange."""
    diagnoses = measure_attributes(validation, names).values()
    notes += [f"On the validation images: {diagnosis.sentence}" for diagnosis in diagnoses]
    return [name for diagnosis in diagnoses for name in diagnosis.named if name != "background"]


def _candidates(
    train: Session,
    validation: Session,
    pool: datasets.Dataset | None,
    attributes: list[str],
    images: Mapping[str, Images],
    options: ImproveOptions,
    notes: list[str],
) -> list[Candidate]:
    """The original model, and at each interpolation weight the new layers and, with --effort full, the finetuned model."""
    side, of_train = train.sides["before"], images["train"]
    if options.effort == "full" and (classes := next(iter(train.sets.values())).class_subset):
        # With 3 photographs of 10 and of 150 of 1,000 classes, top-1 on the others fell by 6.7 and 2.1 points (experiments/photographs.md).
        raise ValueError(
            f"The model has {len(train.classes)} classes, {len(train.classes) - len(classes)} of them without images, and a training of all layers "
            "makes it worse at these, which no image here shows. Give --effort quick, --only_these_classes for a model of only the others, or "
            "images of all classes."
        )
    outputs_of = partial(
        composite_outputs, session=validation, count=VALIDATION_COMPOSITES, attributes=attributes, edit=MOVED
    )
    facts = {"finetuned_from": resolve(options.model), "dataset": options.dataset, "protocol": train.protocol}
    facts["masks"], rows = of_train.masks, of_train.rows.select(np.flatnonzero(confirmed(of_train.rows)))
    unusual: np.ndarray | bool = False
    try:
        features = compute_features(train, validation, pool, attributes)
        candidates = layer_candidates(side, features, facts | {"folder": train.folder}, rows)
        unusual = features.validation_unusual
    except NoLastLayer as error:
        if options.effort == "quick":
            raise ValueError(
                f"{error} Give --effort full, which finetunes the model and needs images of all classes."
            ) from error
        notes.append(
            f"{error} So the training is the only candidate, and photographs with unusual backgrounds are not found."
        )
        candidates = [Candidate.of(outputs_of(side))]
    if options.effort == "full":
        if attributes:
            but = "; the new layers do" if len(candidates) > 1 else ""
            notes.append(f"The training of all layers does not exchange attributes{but}.")
        start = next((layer for layer in candidates if (layer.name, layer.weight) == START), None)
        pictures = None if pool is None else dataset_identity(pool.with_format(None))
        inputs = {"pictures": pictures, "attributes": [*attributes]}  # with which the new layers are fitted
        finetuning = Finetuning(train.cache, side, rows, outputs_of, options, facts, start=start, inputs=inputs)
        tqdm.write(f"  {finetuning}", file=sys.stderr)
        candidates += finetuning.candidates(notes)
    return [replace(candidate.beside(candidates[0]), unusual_background=unusual) for candidate in candidates]


def _say(number: int, text: str) -> None:
    tqdm.write(f"[{number}/4] {text}", file=sys.stderr)


def _estimate(session: Session, images: Mapping[str, Images], options: ImproveOptions) -> str:
    """How long the command takes, without what is in the output folder, and how small a change it can tell."""
    train, validation = (len(images[role].rows) for role in ("train", "validation"))
    side = session.sides["before"]

    def seconds_per_image() -> float:
        pixels, times = torch.zeros(8, 3, *input_size(side.processor), device=side.model.device), []
        for _ in range(3):
            started = time.perf_counter()
            forward_logits(side.model, pixels).cpu()
            times.append((time.perf_counter() - started) / len(pixels))
        return min(times)

    with torch.no_grad():
        fp32 = seconds_per_image()
        with session.accelerator.autocast():
            per_image = seconds_per_image() if options.bf16 else fp32

    entries = [path for path in (options.output_dir / "cache").glob("*") if path.suffix not in (".partial", ".lock")]
    known = [path.name.partition("-")[0] for path in entries]
    composed, of_train = (2 + VALIDATION_COMPOSITES) * validation, (2 + training_composites(train)) * train
    passes = 21 * validation * max(0, 2 - known.count("backgrounds"))
    passes += 0 if "features" in known else composed + validation + of_train
    # A step takes passes of the original and of the model, and a backward pass.
    full = 4 * options.max_steps * options.train_batch_size + len(INTERPOLATION_WEIGHTS) * composed
    full = passes + (0 if "finetuned" in known else full)
    masks = train + validation if makes_masks(images["train"], options.mask_method) else 0
    masks -= sum(pq.read_metadata(file).num_rows for file in (options.output_dir / MASKS_FOLDER).rglob("*.parquet"))
    seconds = float(FITTING)
    if masks > 0:
        seconds += masks * _seconds_per_mask(images["train"], options.mask_method, per_image / fp32)
    quick, of_full = (f"{max(1, (per_image * count + seconds) / 60):.0f} min" for count in (passes, full))
    chosen, other, effort = (of_full, quick, "quick") if options.effort == "full" else (quick, of_full, "full")
    share, points = options.shares[-1], resolution(validation, options.shares[-1])
    return (
        f"about {chosen} in all; --effort {effort}: {other}\n  {validation} validation images tell a change of top-1 at "
        f"{100 * share:.0f} % other backgrounds to within about {points:.1f} points."
    )


def _seconds_per_mask(images: Images, method: str | None, of_fp32: float) -> float:
    """Seconds to decode the first image, twice, and to make a mask of its size. Passes in the number format take this part of those in fp32."""
    method = "rembg" if method == "auto" and find_spec("rembg") else method
    started, (width, height) = time.perf_counter(), (336, 252)
    with suppress(Exception):  # codecs raise any type, and an image that cannot be read is left out later
        width, height = to_rgb(images.rows[0]["image"]).size
    decoding = time.perf_counter() - started
    scale = min(ConfirmedMasks.max_side / max(width, height), max(1, Dinov2Options.min_side / min(width, height)))
    share = scale**2 * width * height / (336 * 252)
    seconds = SECONDS_PER_MASK.get(method, SECONDS_PER_MASK[None] * share * of_fp32)
    return 2 * decoding + seconds / torch.get_num_threads()
