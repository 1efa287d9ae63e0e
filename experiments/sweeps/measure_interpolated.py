"""Measurement of a run on its validation images, and of models between it and the original model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robust_vit_hf.evaluation.accuracy import Accuracy
from robust_vit_hf.evaluation.measurement import measure, save_predictions
from robust_vit_hf.evaluation.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import Session, Side, load_sides
from robust_vit_hf.evaluation.sets import EvaluationSet, with_objects
from robust_vit_hf.models.image_processors import resolve_protocol
from robust_vit_hf.models.interpolation import interpolate
from robust_vit_hf.training.config import RobustViTConfig
from robust_vit_hf.training.load_data import load_data
from robust_vit_hf.training.options import DataArguments, ModelArguments
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.processes import make_accelerator

from .point_folder import CUT_OUT, SETS, VALIDATION, interpolated_folder


COMPARED = ("original", "mixed_rand")


def measure_interpolated(
    model: ModelArguments,
    data: DataArguments,
    config: RobustViTConfig,
    point: Path,
    cache: Cache,
    weights: Sequence[float],
) -> None:
    """Measure models on the validation images, as they are and on the backgrounds of other images: the finetuned model, and those
    between it and the original model. The latter are also measured on the unshifted and the first shifted set, without relevance maps;
    and the original model is then measured on the objects of these sets, cut out by their masks, of labelled images alone.

    Args:
        point: folder of the point, with the results.
        cache: measurements of models, which the points of a sweep share.
        weights: interpolation weights in [0, 1], of which 1 is the finetuned model.
    """
    protocol, accelerator = resolve_protocol(model.protocol, model.model), make_accelerator(config.bf16)
    sides = load_sides({"before": model.model, "after": config.output_dir}, protocol, accelerator)
    # Both see the images as the training did, whose size may be another than that of the original model.
    sides = {name: replace(side, processor=sides["after"].processor) for name, side in sides.items()}
    passes = config.per_device_eval_batch_size, config.dataloader_num_workers
    session = Session(sides, {}, accelerator, cache=cache, protocol=protocol, passes=passes)
    _, validation, sets = load_data(data, sides["before"].model.config, config.seed)
    chosen = session.with_sets({"validation": EvaluationSet.of(validation, source=data.dataset)})
    first_shifted = next((name for name, rows in sets.items() if rows.shifted), None)
    price_sets = {name: rows for name, rows in sets.items() if not rows.shifted or name == first_shifted}
    if len(weights) > 1:
        cut_out = replace(session, sides={"before": sides["before"]}).with_sets(with_objects(price_sets))
        if cut_out.sets:
            alone = measure(cut_out, Backgrounds(("only_fg",), relevance=False))
            save_predictions(point / f"{CUT_OUT}.parquet", cut_out, alone)
    for weight in weights:
        folder, compared = interpolated_folder(point, weight), sides
        if weight < 1:
            between = interpolate(sides["before"].model, sides["after"].model, weight)
            compared = sides | {"after": Side.of(between, sides["after"].processor)}
            between_sets = replace(session, sides=compared).with_sets(price_sets)
            save_predictions(folder / SETS, between_sets, measure(between_sets, Accuracy(relevance=False)))
        composed = Backgrounds(COMPARED, relevance=False)
        save_predictions(folder / VALIDATION, chosen, measure(replace(chosen, sides=compared), composed))
