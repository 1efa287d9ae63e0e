"""The control of `--control`: a copy of the model, trained with cross-entropy alone."""

from dataclasses import replace

from .config import RobustViTConfig
from .options import METHOD_OPTIONS


def control_of(config: RobustViTConfig) -> RobustViTConfig:
    """Config of the control: only cross-entropy with the label, without evaluation, checkpoints and push."""
    return replace(
        config,
        method="finetune",
        **METHOD_OPTIONS,
        confidence_temperature=1.0,
        background_swap=0.0,
        backgrounds=None,
        head_epochs=0.0,
        head_learning_rate=None,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        report_to="none",
        push_to_hub=False,
    )
