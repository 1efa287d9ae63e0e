"""`robust-vit improve`: from a model and photographs to a better model, or to the advice to keep it."""

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
import xxhash
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from ..data.attributes import chosen_attributes
from ..data.dataset_digest import dataset_identity
from ..data.geometry import input_size
from ..diagnosis.diagnose import measure_attributes
from ..diagnosis.verdict import Diagnosis
from ..evaluation.measurements.base import measure
from ..evaluation.measurements.other_backgrounds import Backgrounds
from ..evaluation.options import PairOptions
from ..evaluation.session import Session, Side, left_as_it_is, load_sides, open_session
from ..evaluation.sets import EvaluationSet
from ..masks.own_masks import MaskedImages, MaskSettings, masked_images, one_mask_maker
from ..models.last_layer import NoLastLayer
from ..models.model_names import resolve
from ..relevance.architectures import why_no_map
from ..relevance.relevance_map import forward_logits
from ..training.methods import load_method
from ..training.methods.base import check_has_map
from ..utils.files import RUN_FILE, write_atomically
from ..utils.privacy import public_name
from ..utils.stage import Stage
from .candidates import (
    FINALISTS,
    FIRST_MIXTURES,
    MIXTURES,
    Mixture,
    candidates_table,
    choose_cheapest,
    first_trainings,
)
from .composites import NONE_COMPOSED, SELECTION_COMPOSITES, composite_outputs, training_composites
from .fit_layers import LayerSettings
from .image_roles import ImageRoles, images_by_role
from .new_layers import LAYER_FOLDER, NewLayers
from .options import ImproveOptions
from .train_candidates import TRAINING_FOLDER, Trials
from .verdict import PREDICTIONS_FOLDER, Improvement, measure_outcome


CHANGED = 0.04  # share of predictions at home that an improvement usually changes, of which half are for the better
# Points of top-1 on new backgrounds that --effort full gained beyond the new layer alone, of models with and without a relevance map, on
# the sets of benchmarks/improve.py that have both.
FULL_GAINED = {True: 8, False: 24}
SECONDS_PER_MASK = 0.1  # of TokenCut with a ViT-S on two cores
CANDIDATES_FOLDER, CANDIDATES_FILE, MASKS_FOLDER = "candidates", "candidates.md", "masks"
# Options that do not change what is in the folder, or whose contents are inputs: images, masks and pictures.
NO_INPUTS = {"effort", "batch_size", "num_workers", "output_dir", "model", "dataset", "backgrounds", "attributes"}


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
        dataset: labelled images, as for `robust-vit improve`.
        options: others of [`ImproveOptions`].
    """
    options["output_dir"] = output_dir  # which the options turn into a path
    if isinstance(model, str | Path):
        if processor is not None:
            raise ValueError(f"`{model}` has its own: leave out `processor`, or give the model as an object.")
        return run_improvement(ImproveOptions(model=str(model), dataset=dataset, **options))
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"A `{type(model).__name__}` cannot be trained: give a model of transformers, with its `processor`. `diagnose` takes any "
            "function."
        )
    _check_can_be_loaded(model)
    with left_as_it_is(model):
        given = Side.of_object(model, processor)
        return run_improvement(ImproveOptions(model=given.source, dataset=dataset, **options), given)


def _check_can_be_loaded(model: PreTrainedModel) -> None:
    with torch.device("meta"):
        of_class = type(model)._from_config(model.config)
    own, known = ({name: of.shape for name, of in one.state_dict().items()}.items() for one in (model, of_class))
    if differing := sorted(own ^ known):
        raise ValueError(
            f"A saved copy of this `{type(model).__name__}` could not be loaded: its class builds other layers from its configuration, "
            f"see `{differing[0][0]}`. Write a class for it, or leave its layers as they were."
        )


def run_improvement(options: ImproveOptions, given: Side | None = None) -> Improvement:
    """Masks, candidates, choice, model and diagnosis, in one process. What is complete in the output folder is skipped.

    Raises:
        ValueError: model, images or masks do not fit together, the folder was made from other inputs, or several
            processes were launched.
        OSError: a model or set does not exist, or another process is writing to the output folder.
    """
    folder = options.output_dir
    whole = Stage(folder, {"command": "improve"})
    pair = PairOptions(model=options.model)
    with open_session(pair, options.protocol, whole, bf16=options.bf16, given=given) as session:
        if session.accelerator.num_processes > 1:
            raise ValueError(
                "`improve` works in one process: leave out `accelerate launch`, or train the candidate that it names with "
                "`robust-vit train` on several."
            )
        side = session.sides["before"]
        if options.method is not None:
            check_has_map(side.model, options.method, load_method(options.method).DEFAULTS.get("relevance_weight"))
        roles = images_by_role(options, session)
        # All that the candidates and the model depend on, as JSON values.
        inputs = {name: value for name, value in asdict(options).items() if name not in NO_INPUTS}
        inputs |= {"masks": options.mask_method, "model": side.digest}
        pictures = roles.pool.paths if roles.pool else ()  # in the order in which the swap draws from them
        inputs["pictures"] = [xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in pictures]
        inputs |= {"mask_model": options.mask_model and public_name(options.mask_model)}  # masks record its digest
        inputs |= {"images": {role: dataset_identity(images.rows) for role, images in roles.images.items()}}
        inputs |= {"precision": session.accelerator.mixed_precision}
        if options.attributes:
            inputs["attributes"] = [*chosen_attributes(options.attributes)]
        inputs |= {"processor": json.loads(side.processor.to_json_string())}
        stage = Stage(folder / CANDIDATES_FOLDER, inputs)
        stage.check()
        return _improve(session, roles, stage, options)


def _improve(session: Session, roles: ImageRoles, stage: Stage, options: ImproveOptions) -> Improvement:
    folder, side = options.output_dir, session.sides["before"]
    counts = {role: len(images.rows) for role, images in roles.images.items()}
    _say(0, f"{side.name}, {_estimate(side, roles, options)}")
    _say(1, f"Masks of {counts['train']} training and {counts['selection'] + counts['report']} validation images")
    masked = _with_masks(session, roles, options)
    notes = roles.notes + [f"`{role}`: {note}" for role in ("train", "selection") for note in masked[role].notes]
    _say(2, f"Candidates, measured on {len(masked['selection'].dataset)} selection images")
    passes = options.batch_size, options.num_workers
    of_role = {
        role: session.with_sets(
            {role: EvaluationSet.of(masked[role].dataset, source=options.dataset, group_weights=weights)}
        )
        for role, weights in {"train": None, "selection": None, "report": roles.group_weights}.items()
    }
    _check_report_images(of_role["report"], Backgrounds(*passes), options.max_loss)
    stage.begin()
    attributes = _attributes(of_role["selection"], options, notes)
    layers = _new_layers(of_role, stage.folder, roles, options, notes, attributes)
    if attributes and options.effort == "full":
        notes.append("The finetuning does not use the attributes that were named.")
    if layers is None:
        selection = of_role["selection"]
        before = Mixture.of(composite_outputs(side, selection, SELECTION_COMPOSITES, passes, attributes=attributes))
    else:
        before = layers.before
    mixtures = [before, *(layers.mixtures if layers else ())]
    facts = {"finetuned_from": resolve(options.model), "dataset": options.dataset, "masks": masked["train"].masks}
    facts["protocol"] = session.protocol
    if options.effort == "full":
        starts, rows = {"original": side}, {}
        if layers and (start := layers.saved_start(options.max_loss)):
            starts["layer"], rows = start
        trials = Trials(
            stage.folder, of_role["selection"], starts, masked["train"].dataset, options, facts, rows, attributes
        )
        for settings, found in trials.run_all(before):
            mixtures += found
            if not found:
                notes.append(f"{settings} diverged, and is left out.")
    chosen = choose_cheapest(mixtures, before, options.max_loss)
    table = candidates_table(mixtures, before, chosen, options.max_loss)
    write_atomically(folder / CANDIDATES_FILE, f"{table.title}:\n\n{table.markdown()}\n")
    session = of_role["report"]
    if chosen.settings is not None:
        _say(3, f"Model: {chosen.settings}, {chosen.alpha:g} of its weights")
        if (stage.result() or {}).get("candidate") != _named(chosen):
            if isinstance(chosen.settings, LayerSettings):
                layers.write(chosen.settings, chosen.alpha, folder, facts)
            else:
                trials.write(chosen.settings, chosen.alpha, folder, before)
        side.processor.save_pretrained(folder)
        sides = load_sides({"after": str(folder)}, session.protocol, session.accelerator)
        session = replace(session, sides={**session.sides, **sides})
    _say(4, f"Diagnosis on {len(masked['report'].dataset)} report images")
    improvement = measure_outcome(session, masked["report"], table, notes, options)
    weights = [path.name for path in folder.glob("*.safetensors")]
    files = [*weights, "config.json", RUN_FILE] if weights else []
    stage.finish(improvement.record() | {"candidate": _named(chosen)}, [f"../{name}" for name in files])
    for path in (*stage.folder.glob(f"*/{TRAINING_FOLDER}"), *stage.folder.glob(LAYER_FOLDER)):
        shutil.rmtree(path)  # what was measured is kept
    return improvement


def _with_masks(session: Session, roles: ImageRoles, options: ImproveOptions) -> dict[str, MaskedImages]:
    side, folder = session.sides["before"], options.output_dir / MASKS_FOLDER
    making = MaskSettings(options.mask_method, options.mask_model, side.model, side.processor, options.bf16)
    with one_mask_maker():
        return {
            role: masked_images(images, role, session.classes, folder / role, making)
            for role, images in roles.images.items()
        }


def _attributes(session: Session, options: ImproveOptions, notes: list[str]) -> list[str]:
    """Attributes that the original model decides by on the selection images, but for the background, which composites have anyway."""
    found = measure_attributes(session, options)
    notes += [f"On the selection images: {one.sentence}" for one in found.values()]
    return [name for one in found.values() for name in one.named if name != "background"]


def _new_layers(
    of_role: Mapping[str, Session],
    folder: Path,
    roles: ImageRoles,
    options: ImproveOptions,
    notes: list[str],
    attributes: list[str],
) -> NewLayers | None:
    """New last layers; `None` if the model has no last layer, and is finetuned alone."""
    try:
        return NewLayers.of(of_role, folder, (options.batch_size, options.num_workers), roles.pool, attributes)
    except NoLastLayer as error:
        if options.effort == "minute":
            raise ValueError(f"{error} Give --effort full, which finetunes the model.") from error
        notes.append(f"{error} So it was finetuned alone.")
        return None


def _named(chosen: Mixture) -> str:
    return f"{chosen.settings}, {chosen.alpha:g}"


def _check_report_images(session: Session, backgrounds: Backgrounds, max_loss: float) -> None:
    """Measure the original model on the report images, so that what is wrong with them, and whether they are too few to
    tell, is said before the training."""
    found = measure(session, backgrounds, PREDICTIONS_FOLDER)["report"]["before"]
    diagnosis = Diagnosis(found.columns, session.classes)
    if not diagnosis.num_mixed:
        raise ValueError(NONE_COMPOSED.format(len(session.sets["report"].dataset), "report"))
    tqdm.write(f"  your model: {diagnosis.sentence}", file=sys.stderr)
    count, needed = diagnosis.num_mixed, math.ceil(CHANGED * (1.96 / (max_loss / 100)) ** 2) if max_loss else math.inf
    if count < needed:
        bound = f", and to within --max_loss {max_loss:g} it takes about {needed:,}" if max_loss else ""
        tqdm.write(
            f"  {count} report images will tell a change at home to within {196 * math.sqrt(CHANGED / count):.1f} points{bound}: give more "
            "validation images, or expect that the cost stays unresolved.",
            file=sys.stderr,
        )


def _say(number: int, text: str) -> None:
    tqdm.write(f"[{number}/4] {text}", file=sys.stderr)


def _estimate(side: Side, roles: ImageRoles, options: ImproveOptions) -> str:
    """Estimate the run time of each effort in a new folder from one forward pass."""
    counts = {role: len(images.rows) for role, images in roles.images.items()}
    pixels, times = torch.zeros(8, 3, *input_size(side.processor), device=side.model.device), []
    with torch.no_grad():
        for _ in range(3):
            started = time.perf_counter()
            forward_logits(side.model, pixels).cpu()
            times.append((time.perf_counter() - started) / len(pixels))
    passes = 2 * 15 * counts["report"] + (1 + SELECTION_COMPOSITES) * counts["selection"]
    passes += (1 + training_composites(counts["train"])) * counts["train"]
    makes_masks = options.mask_method or "mask" not in roles.images["train"].rows.column_names
    masks = SECONDS_PER_MASK * sum(counts.values()) if makes_masks else 0.0
    full = passes + _training_passes(side, options, counts["selection"])
    minutes, of_full = (f"{max(1, (min(times) * each + masks) / 60):.0f} minutes" for each in (passes, full))
    own, other, compared = minutes, f"full: {of_full}", "more"
    if options.effort == "full":
        own, other, compared = of_full, f"minute: {minutes}", "less"
    text = f"about {own} in all; --effort {other}"
    if options.method is not None:  # of which nothing was measured
        return text
    gained = FULL_GAINED[why_no_map(side.model) is None]
    return f"{text}, and gained {gained} points {compared} on new backgrounds in docs/measured.md"


def _training_passes(side: Side, options: ImproveOptions, selection: int) -> float:
    """Forward passes that take as long as the trainings: of a step those of the original and of the model, and a backward pass; for
    maps half of that again."""
    first = first_trainings(options.method, options.learning_rates, options.max_steps, ("original", "layer"))
    steps = sum(one.steps for one in first) + FINALISTS * options.max_steps
    mixtures = len(first) * len(FIRST_MIXTURES) + FINALISTS * len(MIXTURES)
    return 5 * steps * options.train_batch_size + (1 + SELECTION_COMPOSITES) * mixtures * selection
