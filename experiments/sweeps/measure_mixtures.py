"""Measurement of a run on its validation images, and of mixtures of its weights with the original model's."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robust_vit_hf.evaluation.measurements.accuracy import Accuracy
from robust_vit_hf.evaluation.measurements.base import measure
from robust_vit_hf.evaluation.measurements.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import Session, Side, load_sides
from robust_vit_hf.evaluation.sets import EvaluationSet, with_objects
from robust_vit_hf.models.image_processors import resolve_protocol
from robust_vit_hf.models.interpolation import interpolate
from robust_vit_hf.training.config import RobustViTConfig
from robust_vit_hf.training.load_data import load_data
from robust_vit_hf.training.options import DataArguments, ModelArguments
from robust_vit_hf.utils.processes import make_accelerator

from .point_folder import CUT_OUT, SETS, VALIDATION, share_folder


COMPARED = ("original", "mixed_rand")


def measure_shares(
    model: ModelArguments,
    data: DataArguments,
    config: RobustViTConfig,
    point: Path,
    originals: Path,
    shares: Sequence[float],
) -> None:
    """Measure a finetuned model on its validation images, as they are and on the backgrounds of other images; and so its
    mixtures with the original's weights, and those also on the unshifted and the first shifted set, without relevance maps.
    With mixtures, also measure the original model on the objects of these sets, cut out by their masks, of labelled images alone.
    """
    protocol, accelerator = resolve_protocol(model.protocol, model.model), make_accelerator(config.bf16)
    sides = load_sides({"before": model.model, "after": config.output_dir}, protocol, accelerator)
    # Both see the images as the training did, whose size may be another than that of the original model.
    sides = {name: replace(side, processor=sides["after"].processor) for name, side in sides.items()}
    session = Session(sides, {}, accelerator, shared=originals, protocol=protocol)
    _, validation, sets = load_data(data, sides["before"].model.config, config.seed)
    chosen = session.with_sets({VALIDATION: EvaluationSet.of(validation, source=data.dataset)})
    batch_size, workers = config.per_device_eval_batch_size, config.dataloader_num_workers
    first_shifted = next((name for name, rows in sets.items() if rows.shifted), None)
    of_price = {name: rows for name, rows in sets.items() if not rows.shifted or name == first_shifted}
    if len(shares) > 1:
        of_original = replace(session, sides={"before": sides["before"]}, folder=point / CUT_OUT)
        alone = Backgrounds(batch_size, workers, ("only_fg",), relevance=False)
        measure(of_original.with_sets(with_objects(of_price)), alone)
    for share in shares:
        folder, mixed = share_folder(point, share), sides
        if share < 1:
            model_of_share = interpolate(sides["before"].model, sides["after"].model, share)
            mixed = sides | {"after": Side.of(model_of_share, sides["after"].processor)}
            measured = replace(session, sides=mixed, folder=folder).with_sets(of_price)
            measure(measured, Accuracy(batch_size, workers, relevance=False), within=SETS)
        composed = Backgrounds(batch_size, workers, COMPARED, relevance=False)
        measure(replace(chosen, sides=mixed, folder=folder), composed)
