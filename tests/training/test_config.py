"""Hyper-parameters: the paper's defaults, and what is refused."""

import numpy as np
import pytest

from robust_vit_hf import RobustViTConfig
from robust_vit_hf.training.methods import load_method
from robust_vit_hf.training.methods.augmentations import FinetuneConfig, SwapConfig, control_of


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
    assert config.describe()["learning rate"] == "3e-06, × 0.85 every 2 epochs"
    other = RobustViTConfig(str(tmp_path), eval_strategy="no", lr_scheduler_type="cosine")
    assert not other.load_best_model_at_end and other.describe()["learning rate"] == "3e-06, cosine"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "rrr", "relevance_weight": 1.0}, "`relevance_weight` has no effect on the method `rrr`"),
        ({"method": "energy", "background_weight": 1.0}, "`background_weight` has no effect on the method `energy`"),
        ({"method": "erase"}, "no method `erase`: expected one of cft, energy"),
        ({"background_swap": 1.5, "confidence_target": "label"}, "a probability from 0 to 1"),
        ({"background_swap": 0.5}, "would teach the shortcut"),
        ({"method": "swap", "per_device_train_batch_size": 1}, "needs two images"),
        ({"remove_unused_columns": True}, "would remove the images"),
        ({"torch_compile": True}, "torch_compile"),
        ({"label_smoothing_factor": 0.1}, "takes the labels"),
        ({"warmup_steps": 3}, "has no warm-up"),
        ({"ddp_static_graph": True}, "wrong gradients"),
        ({"backgrounds": "pictures"}, "`backgrounds` needs `background_swap` > 0"),
    ],
)
def test_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_method(arguments.get("method", "robustvit")).config(str(tmp_path), **arguments)


def test_a_method_has_its_class_of_arguments(tmp_path):
    """As `HfArgumentParser` gives every default, those of another method would be lost."""
    with pytest.raises(ValueError, match="is not the config of `cft`: use `ConceptConfig`"):
        RobustViTConfig(str(tmp_path), method="cft")
    with pytest.raises(ValueError, match="is not the config of `robustvit`: use `RobustViTConfig`"):
        SwapConfig(str(tmp_path), method="robustvit")


def test_numbers_of_numpy_and_a_second_check(tmp_path):
    """A config that the Trainer has rewritten can be copied with other values."""
    config = RobustViTConfig(str(tmp_path), learning_rate=np.float32(1e-3), seed=np.int64(3), report_to=["none"])
    assert control_of(config).seed == 3 and config.do_eval and not control_of(config).do_eval


@pytest.mark.parametrize(
    "options",
    [
        {"confidence_target": "original", "confidence_weight": 0.3, "second_order": True, "start_layer": 1},
        {"method": "swap"},
    ],
)
def test_the_control_is_cross_entropy_alone(options, tmp_path):
    """Of the options of any method, none is left: it is what `finetune` is by default."""
    shared = {"background_swap": 0.5, "backgrounds": "pictures", "confidence_temperature": 0.55}
    config = load_method(options.get("method", "robustvit")).config
    control = control_of(config(str(tmp_path), learning_rate=0.1, enable_jit_checkpoint=True, **shared, **options))
    assert control.describe() == FinetuneConfig(str(tmp_path), learning_rate=0.1).describe()
    assert not control.enable_jit_checkpoint  # its checkpoint would be taken for one of the run
    assert control.backgrounds is None and control.confidence_target == "label"


def test_labels_are_needed_by_a_target_alone(tmp_path):
    both = {"relevance_target": "prediction", "confidence_target": "prediction"}
    assert not RobustViTConfig(str(tmp_path), **both).needs_labels
    assert RobustViTConfig(str(tmp_path), **both | {"confidence_target": "label"}).needs_labels
    assert not RobustViTConfig(str(tmp_path), relevance_weight=0.0).needs_labels
