"""Options of the Trainer: each changes what a run gives, or is refused."""

from dataclasses import fields

import pytest
import torch
from transformers import TrainingArguments

from robust_vit_hf import RobustViTConfig, RobustViTTrainer
from robust_vit_hf.training.config import NOT_HONOURED

from ..helpers.tiny import DATA, masked_dataset, tiny_config, tiny_vit


DECAYING = {"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 1}
# The option's value, and options that the runs with it and without it share.
WEIGHTS = {
    "adam_beta1": (0.5, {}),
    "adam_beta2": (0.5, {}),
    "adam_epsilon": (0.1, {}),
    "bf16": (True, {}),
    "data_seed": (7, {}),
    "dataloader_drop_last": (True, {}),
    "gradient_accumulation_steps": (2, {}),
    "learning_rate": (1e-4, {}),
    "lr_scheduler_kwargs": ({"num_cycles": 2}, DECAYING),
    "lr_scheduler_type": ("linear", {}),
    "max_grad_norm": (1e-3, {}),
    "max_steps": (1, {}),
    "num_train_epochs": (1, {}),
    "optim": ("sgd", {}),
    "optim_args": ("momentum=0.9", {"optim": "sgd"}),
    "per_device_train_batch_size": (2, {}),
    "seed": (7, {}),
    "train_sampling_strategy": ("sequential", {}),
    "warmup_steps": (2, {"lr_scheduler_type": "linear"}),
    "weight_decay": (0.5, {}),
}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}
LOGS = {
    "eval_delay": (3, EVALUATED),
    "eval_on_start": (True, EVALUATED),
    "eval_steps": (1, EVALUATED),
    "eval_strategy": ("epoch", {}),
    "logging_first_step": (True, {"logging_steps": 2}),
    "logging_steps": (2, {}),
    "logging_strategy": ("epoch", {}),
}
SAVED = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}
BEST = {**EVALUATED, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
FILES = {
    "save_only_model": (True, SAVED),
    "save_steps": (2, SAVED),
    "save_strategy": ("epoch", {}),
    "save_total_limit": (1, SAVED),
    "load_best_model_at_end": (True, BEST | {"greater_is_better": True}),
    "metric_for_best_model": ("background_loss", BEST | {"load_best_model_at_end": True}),
    "greater_is_better": (True, BEST | {"load_best_model_at_end": True}),
}


def run(folder, options):
    """Weights, history and files of a run of 9 images, 3 steps an epoch."""
    config = tiny_config(folder, **{"per_device_train_batch_size": 4} | options)
    trainer = RobustViTTrainer(tiny_vit(), config, masked_dataset(9), masked_dataset(4, seed=1))
    trainer.train()
    history = [(entry["step"], *sorted(set(entry) - {"epoch"})) for entry in trainer.state.log_history]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    return weights, history, files, trainer.state.best_metric


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Runs by their options, each once."""
    made = {}

    def of(options):
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = run(tmp_path_factory.mktemp("run"), options)
        return made[key]

    return of


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_option_of_the_optimization_changes_the_weights(name, known, tmp_path):
    value, shared = WEIGHTS[name]
    assert not torch.equal(known(shared)[0], run(tmp_path, shared | {name: value})[0])


@pytest.mark.parametrize("name", LOGS)
def test_an_option_of_logs_changes_the_history_alone(name, known, tmp_path):
    value, shared = LOGS[name]
    weights, history, *_ = run(tmp_path, shared | {name: value})
    assert history != known(shared)[1] and torch.equal(weights, known(shared)[0])


@pytest.mark.parametrize("name", FILES)
def test_an_option_of_checkpoints_changes_what_is_kept(name, known, tmp_path):
    """Files, the best value that was found, or the weights at the end."""
    value, shared = FILES[name]
    (weights, _, *kept), (weights_without, _, *kept_without) = run(tmp_path, shared | {name: value}), known(shared)
    assert kept != kept_without or not torch.equal(weights, weights_without)


def test_arguments_of_an_optimizer_that_takes_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`optim_args` has no effect with the optimizer `adamw_torch_fused`"):
        RobustViTConfig(str(tmp_path), use_cpu=True, optim="adamw_torch_fused", optim_args="amsgrad=True")


def test_every_option_is_measured_or_refused_or_listed():
    """So that an option of the next release of transformers is looked at."""
    lines = (DATA / "training_arguments.txt").read_text().splitlines()
    listed = {name for line in lines if not line.startswith("#") for name in line.split()}
    groups = [WEIGHTS.keys(), LOGS.keys(), FILES.keys(), NOT_HONOURED.keys(), listed]
    assert sum(map(len, groups)) == len(set().union(*groups))
    names = {option.name for option in fields(TrainingArguments)}
    assert not names - set().union(*groups), "options to measure, to refuse or to list"
