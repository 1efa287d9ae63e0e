"""Hyper-parameters: the paper's defaults, and what is refused."""

import pytest

from robust_vit_hf import RobustViTConfig


def test_defaults_are_those_of_the_paper(tmp_path):
    config = RobustViTConfig(str(tmp_path))
    assert (config.relevance_weight, config.confidence_weight) == (0.8, 0.2)
    assert (config.background_weight, config.foreground_weight) == (2.0, 0.3)
    assert config.optim == "adamw_torch" or config.optim == "adamw_torch_fused"
    assert (config.learning_rate, config.weight_decay, config.max_grad_norm) == (3e-6, 1e-4, 0)
    assert (config.num_train_epochs, config.per_device_train_batch_size) == (50, 8)
    assert (config.lr_decay_rate, config.lr_decay_every) == (0.85, 2)
    assert config.load_best_model_at_end and config.metric_for_best_model == "loss" and not config.greater_is_better
    assert not config.second_order
    assert config.needs_labels


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"relevance_distance": "l1"}, r"Expected `relevance_distance` to be one of \('mse', 'bce'\), but got `l1`"),
        ({"mask_edges": "hard"}, "Expected `mask_edges`"),
        ({"relevance_target": "class"}, "Expected `relevance_target`"),
        ({"confidence_target": "class"}, "Expected `confidence_target`"),
        ({"bad_masks": "ignore"}, "Expected `bad_masks`"),
        ({"background_weight": -1.0}, "Expected `background_weight` ≥ 0, but got -1.0"),
        ({"confidence_temperature": 0.0}, "Expected `confidence_temperature` > 0, but got 0.0"),
        ({"lr_decay_every": 0}, "Expected `lr_decay_every` > 0"),
        ({"remove_unused_columns": True}, "would drop the images and masks"),
        ({"torch_compile": True}, "sibling outputs of one compiled function"),
        (
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            "Reentrant activation checkpointing",
        ),
    ],
)
def test_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        RobustViTConfig(str(tmp_path), **arguments)


def test_activation_checkpointing_is_non_reentrant(tmp_path):
    config = RobustViTConfig(str(tmp_path), activation_checkpointing=True)
    assert config.activation_checkpointing_kwargs == {"use_reentrant": False}


def test_labels_are_needed_by_a_target_alone(tmp_path):
    both = {"relevance_target": "prediction", "confidence_target": "prediction"}
    assert not RobustViTConfig(str(tmp_path), **both).needs_labels
    assert RobustViTConfig(str(tmp_path), **both | {"confidence_target": "label"}).needs_labels
    assert not RobustViTConfig(str(tmp_path), relevance_weight=0.0).needs_labels
