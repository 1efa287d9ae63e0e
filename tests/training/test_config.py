"""Hyper-parameters: the paper's defaults, and what is refused."""

import math
from dataclasses import fields

import numpy as np
import pytest
from transformers import TrainingArguments

from robust_vit_hf import RobustViTConfig
from robust_vit_hf.experiments.recipes import read_recipe
from robust_vit_hf.training.config import CHECKPOINTING, NOT_HONOURED


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
        ({"relevance_distance": "l1"}, r"Expected `relevance_distance` to be one of mse, bce\."),
        ({"mask_edges": "hard"}, "Expected `mask_edges`"),
        ({"relevance_target": "class"}, "Expected `relevance_target`"),
        ({"confidence_target": "class"}, "Expected `confidence_target`"),
        ({"bad_masks": "ignore"}, "Expected `bad_masks`"),
        ({"background_swap": 1.5}, r"Expected `background_swap` from 0 to 1, but got 1.5"),
        ({"background_swap": 0.5}, "would teach the shortcut: .* Set `confidence_target` to `original` or `label`"),
        (
            {"background_swap": 0.5, "confidence_target": "original", "per_device_train_batch_size": 1},
            "takes the background of another image of the batch, and a batch has one image",
        ),
        ({"relevance_weight": 0.0, "confidence_weight": 0.0}, "All weights of the method `robustvit` are 0"),
        ({"method": "finetune", "confidence_weight": 0.0}, "All weights of the method `finetune` are 0"),
        (
            {"method": "gradmask", "confidence_weight": 0.0, "background_weight": 0.0},
            "All weights of the method `gradmask` are 0",
        ),
        (
            {"background_weight": 0.0, "foreground_weight": 0.0, "confidence_weight": 0.0},
            "All weights of the method `robustvit` are 0",
        ),
        (
            {"method": "rrr", "released_gradients": True, "confidence_weight": 0.0},
            "All weights of the method `rrr` are 0",
        ),
        ({"background_weight": -1.0}, "Expected `background_weight` ≥ 0, but got -1.0"),
        ({"confidence_temperature": 0.0}, "Expected `confidence_temperature` > 0, but got 0.0"),
        ({"lr_decay_every": 0}, "Expected `lr_decay_every` ≥ 1, but got 0"),
        ({"lr_decay_rate": math.nan}, "Expected `lr_decay_rate` > 0 and finite, but got nan"),
        ({"learning_rate": math.inf}, "Expected `learning_rate` ≥ 0 and finite, but got inf"),
        ({"learning_rate": None}, r"Expected `learning_rate` to be a number, but got nothing \(null\)"),
        ({"learning_rate": [1e-6]}, "Expected `learning_rate` to be a number, but got a list"),
        ({"learning_rate": "1e-6"}, "Expected `learning_rate` to be a number, but got text"),
        ({"num_train_epochs": 0}, "Expected `num_train_epochs` > 0, but got 0"),
        ({"gradient_accumulation_steps": 0}, "Expected `gradient_accumulation_steps` ≥ 1, but got 0"),
        ({"per_device_eval_batch_size": -1}, "Expected `per_device_eval_batch_size` ≥ 1, but got -1"),
        ({"dataloader_num_workers": -1}, "Expected `dataloader_num_workers` ≥ 0, but got -1"),
        ({"seed": True}, "Expected `seed` to be a whole number, but got true or false"),
        ({"second_order": "false"}, "Expected `second_order` to be true or false, but got text"),
        ({"report_to": 3}, "Expected `report_to` to be text or a list, but got a whole number"),
        ({"local_rank": math.nan}, "Expected `local_rank` to be a whole number, but got a number"),
        ({"lr_scheduler_type": 3}, "Expected `lr_scheduler_type` to be text, but got a whole number"),
        ({"remove_unused_columns": True}, "would drop the images and masks"),
        ({"torch_compile": True}, "sibling outputs of one compiled function"),
        ({"ddp_static_graph": True}, "gradients are wrong from the second step on"),
        (
            {"method": "finetune", "learning_rate": 0.0, "head_epochs": 1, "head_learning_rate": 1e-3},
            "`head_learning_rate` is reached by a factor of `learning_rate`, which is 0",
        ),
        (
            {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}},
            "Reentrant activation checkpointing",
        ),
    ],
)
def test_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        RobustViTConfig(str(tmp_path), **arguments)


def test_ranges_are_of_options_that_exist():
    assert RobustViTConfig.RANGES.keys() <= {option.name for option in fields(TrainingArguments)}


def test_numbers_of_numpy_and_a_second_check(tmp_path):
    """A config that the Trainer has rewritten can be copied with other values."""
    config = RobustViTConfig(str(tmp_path), learning_rate=np.float32(1e-3), seed=np.int64(3), report_to=["none"])
    assert config.control().seed == 3 and config.do_eval and not config.control().do_eval


def test_the_control_has_no_swap(tmp_path):
    config = RobustViTConfig(str(tmp_path), background_swap=0.5, backgrounds="pictures", confidence_target="original")
    control = config.control()
    assert (control.method, control.background_swap, control.backgrounds) == ("finetune", 0, None)
    assert control.confidence_target == "label"


def test_a_batch_that_is_left_out_may_add_up_gradients_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(RobustViTConfig, "world_size", 2)
    RobustViTConfig(str(tmp_path), on_nan="skip")
    with pytest.raises(
        ValueError, match="`on_nan='skip'` is not supported with `gradient_accumulation_steps` on several"
    ):
        RobustViTConfig(str(tmp_path), on_nan="skip", gradient_accumulation_steps=2)


def test_another_method_leaves_out_what_suits_that_of_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    of_swap = "background_swap: 0.75\nbackgrounds: pictures\nhead_epochs: 1\nhead_learning_rate: 1.0e-3\n"
    recipe.write_text(f"method: finetune\nlearning_rate: 1.0e-5\n{of_swap}")
    assert read_recipe(recipe, "gradmask") == {"method": "finetune", "learning_rate": 1e-5}
    assert len(read_recipe(recipe, "finetune")) == 6


def test_activation_checkpointing_is_non_reentrant(tmp_path):
    config = RobustViTConfig(str(tmp_path), **{CHECKPOINTING: True})
    assert getattr(config, f"{CHECKPOINTING}_kwargs") == {"use_reentrant": False}


def test_labels_are_needed_by_a_target_alone(tmp_path):
    both = {"relevance_target": "prediction", "confidence_target": "prediction"}
    assert not RobustViTConfig(str(tmp_path), **both).needs_labels
    assert RobustViTConfig(str(tmp_path), **both | {"confidence_target": "label"}).needs_labels
    assert not RobustViTConfig(str(tmp_path), relevance_weight=0.0).needs_labels


def test_options_of_the_trainer_without_effect_are_refused(tmp_path):
    values = {"label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "use_liger_kernel": True}
    values |= {
        "liger_kernel_config": {"rope": True},
        "include_num_input_tokens_seen": "all",
        "length_column_name": "size",
    }
    values |= {"use_cache": True, "label_names": ["label"], "do_train": True, "do_predict": True}
    values |= {"hub_always_push": True, "logging_nan_inf_filter": False}
    values |= {"restore_callback_states_from_checkpoint": True, "enable_jit_checkpoint": True}
    values |= {"average_tokens_across_devices": False}
    assert values.keys() == NOT_HONOURED.keys()
    for name, value in values.items():
        with pytest.raises(ValueError, match=rf"`{name}` has no effect here, since .*: leave it out"):
            RobustViTConfig(str(tmp_path), use_cpu=True, report_to="none", **{name: value})
    for options, message in (
        ({"warmup_steps": 5}, "`warmup_steps` has no effect with the scheduler `constant`"),
        (
            {"warmup_steps": 5, "lr_scheduler_type": "greedy"},
            "`warmup_steps` has no effect with the scheduler `greedy`",
        ),
        ({"lr_scheduler_kwargs": {"a": 1}}, "`lr_scheduler_kwargs` has no effect with the scheduler `constant`"),
        (
            {"lr_decay_rate": 0.5, "lr_scheduler_type": "cosine"},
            "`lr_decay_rate` has no effect with the scheduler `cosine`",
        ),
        (
            {"lr_decay_every": 1, "lr_scheduler_type": "linear"},
            "`lr_decay_every` has no effect with the scheduler `linear`",
        ),
        ({"fp16": True}, "`fp16` has no effect on CPUs"),
        ({"train_sampling_strategy": "group_by_length"}, "groups by length, which images do not have"),
    ):
        with pytest.raises(ValueError, match=message):
            RobustViTConfig(str(tmp_path), use_cpu=True, report_to="none", **options)
    honoured = {
        "warmup_steps": 5,
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 2},
    }
    RobustViTConfig(str(tmp_path), use_cpu=True, report_to="none", data_seed=1, **honoured).control()
