"""Measurement of a run on its validation images, on which its settings are chosen."""

from dataclasses import replace
from pathlib import Path

from robust_vit_hf.evaluation.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import Session, load_sides, measure, save_predictions
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.models.image_processors import resolve_protocol
from robust_vit_hf.training.config import RobustViTConfig
from robust_vit_hf.training.load_data import load_data
from robust_vit_hf.training.options import DataArguments, ModelArguments
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.processes import make_accelerator

from .point_folder import VALIDATION


COMPARED = ("original", "mixed_rand")


def measure_validation(
    model: ModelArguments, data: DataArguments, config: RobustViTConfig, point: Path, cache: Cache
) -> None:
    """Measure the original and the finetuned model on the validation images, as they are and on the backgrounds of
    other images.

    Args:
        point: folder of the point, for the predictions.
        cache: measurements of models, which the points of a sweep share.
    """
    protocol, accelerator = resolve_protocol(model.protocol, model.model), make_accelerator(config.bf16)
    sides = load_sides({"before": model.model, "after": config.output_dir}, protocol, accelerator)
    # Both see the images as the training did, whose size may be another than that of the original model.
    sides = {name: replace(side, processor=sides["after"].processor) for name, side in sides.items()}
    passes = config.per_device_eval_batch_size, config.dataloader_num_workers
    session = Session(sides, {}, accelerator, cache=cache, protocol=protocol, passes=passes)
    _, validation, _ = load_data(data, sides["before"].model.config, config.seed)
    session = session.with_sets({"validation": EvaluationSet.of(validation, source=data.dataset)})
    save_predictions(point / VALIDATION, session, measure(session, Backgrounds(COMPARED, relevance=False)))
