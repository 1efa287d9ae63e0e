"""Sessions of models and sets in memory."""

from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from robust_vit_hf import make_image_processor
from robust_vit_hf.evaluation.accuracy import measure_accuracy
from robust_vit_hf.evaluation.session import Session, Side
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.results.run_results import SetResult, SideResult
from robust_vit_hf.utils.cache import Cache

from .tiny import IMAGE_SIZE, PRETRAINING


def session_of(
    models: Mapping[str, nn.Module],
    sets: Mapping[str, EvaluationSet],
    folder: Path | None = None,
    processor=None,
    accelerator=None,
    passes: tuple[int, int] = (32, 0),
) -> Session:
    """Models by side, in training mode, on sets; what is measured is kept in `folder`, if there is one. By default, the model before has
    the paper's processor, and others one with other statistics that gives wide images."""
    paper, other = make_image_processor("paper", IMAGE_SIZE), make_image_processor("native", (32, 48), PRETRAINING)
    given = {name: processor or (paper if name == "before" else other) for name in models}
    sides = {name: Side.of(model.train(), given[name]) for name, model in models.items()}
    cache = Cache(folder / "cache") if folder else None
    return Session(sides, {}, accelerator or Accelerator(cpu=True), folder, cache, passes=passes).with_sets(sets)


def evaluate_one(
    model: nn.Module, rows: EvaluationSet, processor=None, batch_size=32, **options
) -> tuple[SetResult, SideResult]:
    """What is measured on one set, `noise`, and by its one model."""
    session = session_of({"before": model}, {"noise": rows}, processor=processor, passes=(batch_size, 0))
    result = measure_accuracy(session, **options)["noise"]
    return result, result.sides["before"]
