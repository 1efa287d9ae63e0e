"""`robust-vit improve`: from a model and photographs to a better model, or to the advice to keep it."""

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
import xxhash
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from ..data.background_edits import chosen_attributes
from ..data.dataset_digest import dataset_identity
from ..data.find_images import Images
from ..data.mask_checks import confirmed
from ..data.transforms import input_size
from ..diagnosis.diagnose import MASKS_FOLDER, measure_attributes, measure_backgrounds
from ..evaluation.other_backgrounds import Backgrounds, check_composed, composite_outputs
from ..evaluation.session import Models, Session, Side, given_model, open_session
from ..masks.choose_mask_maker import MaskSettings, masked_images
from ..masks.foreground_layer import ConfirmedMasks
from ..masks.options import Dinov2Options
from ..models.last_layer import NoLastLayer
from ..models.model_names import resolve
from ..relevance.architectures import why_no_map
from ..relevance.relevance_map import forward_logits
from ..training.methods import load_method
from ..training.methods.augmentations import BackgroundPool
from ..training.methods.base import check_has_map
from ..utils.files import RUN_FILE, write_atomically
from ..utils.images import to_rgb
from ..utils.privacy import public_name
from ..utils.stage import Stage
from .candidates import (
    FIRST_INTERPOLATION_WEIGHTS,
    INTERPOLATION_WEIGHTS,
    SELECTION_COMPOSITES,
    Candidate,
    Features,
    candidates_table,
    choose_cheapest,
    compute_features,
    layer_candidates,
    training_composites,
)
from .images import classes_with_images, images_by_role, with_these_classes_alone
from .options import ImproveOptions
from .trainings import FINALISTS, LAYER_FOLDER, TRAINING_FOLDER, Trainings, first_trainings, starting_models
from .verdict import PREDICTIONS_FOLDER, Improvement, measure_outcome, other_classes, write_candidate


CHANGED = 0.04  # share of predictions at home that an improvement usually changes, of which half are for the better
# Points of top-1 on new backgrounds that --effort full gained beyond the new layer alone, of models with and without a relevance map, on
# the sets of `python -m experiments improve` that have both.
FULL_GAINED = {True: 8, False: 24}
# Of a mask on one core, of 336×252 pixels (`python -m experiments real_photographs masks`): of a background remover, and of others.
SECONDS_PER_MASK = {"rembg": 1.7, None: 0.36}
FITTING = 30  # seconds to load models and fit layers
CANDIDATES_FOLDER, CANDIDATES_FILE, FEATURES_FOLDER = "candidates", "candidates.md", "features"
# Options that do not change what is in the folder, or whose contents are inputs: images, masks and pictures.
NO_INPUTS = {
    "effort",
    "batch_size",
    "num_workers",
    "output_dir",
    "model",
    "dataset",
    "backgrounds",
    "attributes",
    "json",
}


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
        model: name, folder or Hub id; or a model of transformers, with its `processor`, of which copies are trained.
        output_dir: folder to write, a model folder if a candidate is better.
        options: others of [`ImproveOptions`].
    """
    if not isinstance(model, str | Path):
        _check_can_be_trained(model)
    options["output_dir"] = output_dir  # which the options turn into a path
    with given_model(model, processor=processor) as (name, given):
        return run_improvement(ImproveOptions(model=name, dataset=dataset, **options), given)


def _check_can_be_trained(model: PreTrainedModel) -> None:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"A `{type(model).__name__}` cannot be trained: give a model of transformers, with its `processor`. `diagnose` takes any function."
        )
    with torch.device("meta"):
        of_class = type(model)._from_config(model.config)
    shapes = [{name: weight.shape for name, weight in of.state_dict().items()} for of in (model, of_class)]
    if differing := sorted(shapes[0].items() ^ shapes[1].items()):
        raise ValueError(
            f"A saved copy of this `{type(model).__name__}` could not be loaded: `{differing[0][0]}` differs. Write a class for it, or leave its layers as they were."
        )


def run_improvement(options: ImproveOptions, given: Side | None = None) -> Improvement:
    """Find images and make masks, compute features, build candidates, choose one and write it. Steps that are complete are skipped."""
    models, notes = Models(options.model, protocol=options.protocol), []
    whole = Stage(options.output_dir, {"command": "improve"})
    with open_session(
        models, whole, bf16=options.bf16, given=given, passes=options.passes, settings=asdict(options)
    ) as session:
        side = session.sides["before"]
        if session.accelerator.num_processes > 1:
            raise ValueError("`improve` works in one process: leave out `accelerate launch`.")
        if options.method is not None:
            check_has_map(side.model, options.method, load_method(options.method).DEFAULTS.get("relevance_weight"))
        images, pool = images_by_role(session, options, notes)
        if options.only_these_classes:
            session, images = with_these_classes_alone(session, images)
            side = session.sides["before"]
        stage = Stage(session.folder / CANDIDATES_FOLDER, _inputs(session, images, pool, options))
        stage.check()
        _say(0, f"{side.name}, {_estimate(side, images, options)}")
        images = _with_masks(images, session, options, notes)
        classes = classes_with_images(images, session.classes, notes)
        train, selection, test = (
            session.with_images(of_role, options.dataset, classes) for of_role in images.values()
        )

        _say(2, f"Candidates, measured on {len(images['selection'].rows)} selection images")
        _check_test_images(test, options.max_loss)
        stage.begin()
        attributes = _attributes(selection, options.attributes, notes)
        keeps = not attributes and _has_little_to_gain(selection)
        features = None if keeps else _features(train, selection, pool, attributes, options.effort, notes)

        facts = {"finetuned_from": resolve(options.model), "dataset": options.dataset, "protocol": session.protocol}
        facts["masks"] = images["train"].masks
        rows = images["train"].rows.select(np.flatnonzero(confirmed(images["train"].rows)))
        if keeps:
            candidates = [Candidate.of(composite_outputs(side, selection, SELECTION_COMPOSITES))]
        else:
            candidates = _candidates(features, rows, selection, attributes, facts, options, notes)

        before, chosen = candidates[0], choose_cheapest(candidates, candidates[0], options.max_loss)
        table = candidates_table(candidates, before, chosen, options.max_loss)
        write_atomically(session.folder / CANDIDATES_FILE, f"{table.title}:\n\n{table.markdown()}\n")

        if chosen is not before:
            _say(3, f"Model: {chosen}")
            is_written = (stage.result() or {}).get("candidate") == str(chosen)
            test = write_candidate(chosen, before, test, is_written, has_layer=features is not None)
            notes += other_classes(test)
        _say(4, f"Diagnosis on {len(images['test'].rows)} test images")
        names, max_loss = options.attributes, None if keeps else options.max_loss
        improvement = measure_outcome(test, images["test"], table, notes, names, max_loss)
        weights = [path.name for path in session.folder.glob("*.safetensors")]
        files = [*weights, "config.json", RUN_FILE] if weights else []
        stage.finish(improvement.record() | {"candidate": str(chosen)}, [f"../{name}" for name in files])
        for path in (*stage.folder.glob(f"*/{TRAINING_FOLDER}"), *stage.folder.glob(LAYER_FOLDER)):
            shutil.rmtree(path)  # what was measured is kept
        return improvement


def _inputs(
    session: Session, images: Mapping[str, Images], pool: BackgroundPool | None, options: ImproveOptions
) -> dict:
    side, pictures = session.sides["before"], pool.paths if pool else ()
    inputs = {name: value for name, value in asdict(options).items() if name not in NO_INPUTS}
    inputs |= {
        "masks": options.mask_method,
        "model": side.digest,
        "pictures": [xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in pictures],  # as the swap draws from them
        "mask_model": options.mask_model and public_name(options.mask_model),  # masks record its digest
        "images": {role: dataset_identity(of_role.rows) for role, of_role in images.items()},
        "precision": session.accelerator.mixed_precision,
    }
    if options.attributes:
        inputs["attributes"] = [*chosen_attributes(options.attributes)]
    return inputs | {"processor": json.loads(side.processor.to_json_string())}


def _with_masks(
    images: dict[str, Images], session: Session, options: ImproveOptions, notes: list[str]
) -> dict[str, Images]:
    counts = {role: len(of_role.rows) for role, of_role in images.items()}
    _say(1, f"Masks of {counts['train']} training and {counts['selection'] + counts['test']} validation images")
    folders, side = {session.folder / MASKS_FOLDER / role: images[role] for role in images}, session.sides["before"]
    making = MaskSettings(options.mask_method, options.mask_model, side.model, side.processor, options.bf16)
    images = dict(zip(images, masked_images(folders, session.classes, making), strict=True))
    notes += [f"`{role}`: {note}" for role in ("train", "selection") for note in images[role].notes]
    return images


def _check_test_images(session: Session, max_loss: float) -> None:
    """Measure the original model on the test images first, to say what is wrong with them in time."""
    diagnosis = measure_backgrounds(session, PREDICTIONS_FOLDER)["before"]
    check_composed(diagnosis.num_mixed, len(diagnosis.columns["label"]), "test")
    tqdm.write(f"  your model: {diagnosis.sentence}", file=sys.stderr)
    count, needed = diagnosis.num_mixed, math.ceil(CHANGED * (1.96 / (max_loss / 100)) ** 2) if max_loss else math.inf
    if count < needed:
        bound = f", and to within --max_loss {max_loss:g} it takes about {needed:,}" if max_loss else ""
        tqdm.write(
            f"  {count} test images will tell a change at home to within {196 * math.sqrt(CHANGED / count):.1f} points{bound}: give more "
            "validation images, or expect that the cost stays unresolved.",
            file=sys.stderr,
        )


def _has_little_to_gain(selection: Session) -> bool:
    """Whether the original model hardly decides by the background of the selection images, so that nothing is to be mended."""
    measurement = Backgrounds(("original", "mixed_same", "mixed_rand"), relevance=False)
    diagnosis = measure_backgrounds(selection, f"{PREDICTIONS_FOLDER}/few", measurement)["before"]
    tqdm.write(f"  your model, on the selection images: {diagnosis.sentence}", file=sys.stderr)
    return diagnosis.has_little_to_gain


def _attributes(selection: Session, names: list[str], notes: list[str]) -> list[str]:
    """Attributes that the original model decides by, but for the background, which composites have anyway."""
    diagnoses = measure_attributes(selection, names).values()
    notes += [f"On the selection images: {diagnosis.sentence}" for diagnosis in diagnoses]
    return [name for diagnosis in diagnoses for name in diagnosis.named if name != "background"]


def _features(
    train: Session,
    selection: Session,
    pool: BackgroundPool | None,
    attributes: list[str],
    effort: str,
    notes: list[str],
) -> Features | None:
    folder = train.folder / CANDIDATES_FOLDER / FEATURES_FOLDER
    try:
        return compute_features(train, selection, folder, pool, attributes)
    except NoLastLayer as error:
        if effort == "minute":
            raise ValueError(f"{error} Give --effort full, which finetunes the model.") from error
        notes.append(f"{error} So it was finetuned alone.")
        return None


def _candidates(
    features: Features | None,
    train: datasets.Dataset,
    selection: Session,
    attributes: list[str],
    facts: dict[str, str],
    options: ImproveOptions,
    notes: list[str],
) -> list[Candidate]:
    side, folder = selection.sides["before"], selection.folder
    outputs_of = partial(composite_outputs, session=selection, count=SELECTION_COMPOSITES, attributes=attributes)
    if features is None:
        candidates = [Candidate.of(outputs_of(side))]
    else:
        candidates = layer_candidates(side, features, facts | {"folder": folder}, train.remove_columns("label"))
    if options.effort == "full":
        if attributes:
            notes.append("The finetuning does not use the attributes that were named.")
        place = folder / CANDIDATES_FOLDER
        starts, start_layer = starting_models(side, candidates, options.max_loss, place)
        trainings = Trainings(place, starts, train, outputs_of, options, facts, start_layer)
        candidates = [*candidates, *trainings.run_all(candidates[0], notes)]
    return candidates


def _say(number: int, text: str) -> None:
    tqdm.write(f"[{number}/4] {text}", file=sys.stderr)


def _estimate(side: Side, images: Mapping[str, Images], options: ImproveOptions) -> str:
    counts = {role: len(of_role.rows) for role, of_role in images.items()}
    pixels, times = torch.zeros(8, 3, *input_size(side.processor), device=side.model.device), []
    with torch.no_grad():
        for _ in range(3):
            started = time.perf_counter()
            forward_logits(side.model, pixels).cpu()
            times.append((time.perf_counter() - started) / len(pixels))
    passes = 2 * 15 * counts["test"] + (1 + SELECTION_COMPOSITES) * counts["selection"]
    passes += 3 * counts["selection"]  # whether there is anything to gain
    passes += (1 + training_composites(counts["train"])) * counts["train"]
    makes_masks = options.mask_method or "mask" not in images["train"].rows.column_names
    masks = _seconds_per_mask(images["train"], options.mask_method) * sum(counts.values()) if makes_masks else 0.0
    first = first_trainings(options.method, options.learning_rates, options.max_steps, ("original", "layer"))
    steps = sum(training.steps for training in first) + FINALISTS * options.max_steps
    measured = len(first) * len(FIRST_INTERPOLATION_WEIGHTS) + FINALISTS * len(INTERPOLATION_WEIGHTS)
    # A step takes those of the original and of the model, and a backward pass; for maps, half of that again.
    full = passes + 5 * steps * options.train_batch_size + (1 + SELECTION_COMPOSITES) * measured * counts["selection"]
    minutes, of_full = (
        f"{max(1, (min(times) * count + masks + FITTING) / 60):.0f} minutes" for count in (passes, full)
    )
    own, other, compared = minutes, f"full: {of_full}", "more"
    if options.effort == "full":
        own, other, compared = of_full, f"minute: {minutes}", "less"
    text = f"about {own} in all; --effort {other}"
    if options.method is not None:  # of which nothing was measured
        return text
    gained = FULL_GAINED[why_no_map(side.model) is None]
    return f"{text}, and gained {gained} points {compared} on new backgrounds in docs/measured.md"


def _seconds_per_mask(images: Images, method: str | None) -> float:
    """Seconds to decode the first image, twice, and to make a mask of its size."""
    started = time.perf_counter()
    image = to_rgb(images.rows[0]["image"])
    decoding = time.perf_counter() - started
    scale = min(ConfirmedMasks.max_side / max(image.size), max(1, Dinov2Options.min_side / min(image.size)))
    share = scale**2 * image.width * image.height / (336 * 252)
    seconds = SECONDS_PER_MASK.get(method, SECONDS_PER_MASK[None] * share)
    return 2 * decoding + seconds / torch.get_num_threads()
