"""Interrupted runs: from where they go on, and what stays on disk."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from robust_vit_hf import RobustViTTrainer
from robust_vit_hf.training.adapters import add_lora
from robust_vit_hf.training.checkpoints import find_checkpoint, last_checkpoint

from ..helpers.commands import python, succeed, wait_until
from ..helpers.tiny import ROOT, masked_dataset, masked_folder, save_pretrained, tiny_config, tiny_vit


SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}


class At(TrainerCallback):
    """Calls a function at the end of a step."""

    def __init__(self, step: int, function):
        self.step, self.function = step, function

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.function()


def make_trainer(folder, rows=None, model=None, callbacks=None, **settings) -> RobustViTTrainer:
    rows = masked_dataset(12) if rows is None else rows
    config = tiny_config(folder, per_device_train_batch_size=4, **SAVING | settings)
    return RobustViTTrainer(model or tiny_vit(), config, rows, masked_dataset(4, seed=1), callbacks=callbacks)


def assert_same_weights(folder: Path, other: Path):
    weights, expected = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in weights | expected)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """Folder of a run of two epochs of three steps, which tests do not change."""
    folder = tmp_path_factory.mktemp("begun")
    make_trainer(folder).train()
    return folder


@pytest.mark.parametrize("step", [3, 4])
def test_crops_and_dropout_go_on(begun, tmp_path, step):
    """At the end of an epoch, and within one."""
    shutil.copytree(begun / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    trainer = make_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 6
    assert_same_weights(begun / "checkpoint-6", tmp_path / "checkpoint-6")


@pytest.mark.parametrize("name, left", [("trainer_state.json", None), ("trainer_state.json", '{"epoch": 7')])
def test_a_checkpoint_that_was_cut_off_does_not_count(begun, tmp_path, name, left):
    for step in (3, 4):
        shutil.copytree(begun / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-4" / name).unlink()
    if left:
        (tmp_path / "checkpoint-4" / name).write_text(left)
    shutil.copytree(begun / "checkpoint-4", tmp_path / "checkpoint-5 (copy)")
    assert find_checkpoint(str(tmp_path), "last") == str(tmp_path / "checkpoint-3")
    last = shutil.copytree(begun / "checkpoint-4", tmp_path / "checkpoint-10")  # by its number
    assert find_checkpoint(str(tmp_path), "last") == str(last)


def test_a_new_run_needs_a_free_folder(tmp_path):
    for name in (".thumbnails.npz", "_own"):
        (tmp_path / name).touch()
    assert find_checkpoint(str(tmp_path), None) is find_checkpoint(str(tmp_path), "last") is None
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ValueError, match=r"such as `checkpoint-1`.*--resume_from_checkpoint last"):
        find_checkpoint(str(tmp_path), None)
    assert find_checkpoint(str(tmp_path), "last") is None  # the run begins again
    assert find_checkpoint(str(tmp_path), "elsewhere/checkpoint-3") == "elsewhere/checkpoint-3"


def test_an_adapter_goes_on_beside_the_digest_of_its_base(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make_trainer(whole, model=add_lora(tiny_vit(), 2, "tiny"), num_train_epochs=1).train()
    assert len(json.loads((whole / "run.json").read_text())["base_digest"]) == 16
    shutil.copytree(whole / "checkpoint-2", broken / "checkpoint-2")
    make_trainer(broken, model=add_lora(tiny_vit(), 2, "tiny"), num_train_epochs=1).train(resume_from_checkpoint=True)
    weights = [load_file(folder / "checkpoint-3" / "adapter_model.safetensors") for folder in (whole, broken)]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items()) and weights[0]


def test_sigterm_keeps_its_checkpoint_beside_the_best(tmp_path):
    """Under the default limit, at the end of a training that loads the best one."""
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "save_total_limit": 2, "learning_rate": 0.3}
    settings |= {"load_best_model_at_end": True, "num_train_epochs": 50, "enable_jit_checkpoint": True}
    trainer = make_trainer(tmp_path, callbacks=[At(4, lambda: os.kill(os.getpid(), signal.SIGTERM))], **settings)
    (jit,) = [of for of in trainer.callback_handler.callbacks if type(of).__name__ == "JITCheckpointCallback"]
    jit.jit_manager.kill_wait = 0.0
    handler = jit.jit_manager._original_sigterm_handler
    trainer.train()
    stopped = trainer.state.global_step
    assert 4 < stopped < 150 and signal.getsignal(signal.SIGTERM) is handler
    assert last_checkpoint(tmp_path) == str(tmp_path / f"checkpoint-{stopped}")
    assert Path(trainer.state.best_model_checkpoint).is_dir()


@pytest.mark.slow
def test_a_command_ends_with_the_status_of_its_signal(tmp_path):
    """A process of its own, as a cluster stops it; the same command with `--resume_from_checkpoint last` ends the run."""
    masked_folder(tmp_path / "data")
    save_pretrained(tiny_vit(), tmp_path / "model")
    options = ["--model", tmp_path / "model", "--dataset", tmp_path / "data", "--output_dir", tmp_path / "run"]
    options += ["--num_train_epochs", "4000", "--report_to", "none", "--use_cpu", "True"]
    command = python("-m", "robust_vit_hf.cli", "train", *options)
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
    wait_until((tmp_path / "run" / "checkpoint-4").is_dir, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err, err[-3000:]
    assert "SIGTERM has stopped the training after step" in err.splitlines()[-1]
    epoch = json.loads(Path(last_checkpoint(tmp_path / "run"), "trainer_state.json").read_text())["epoch"]
    succeed("train", *options, "--num_train_epochs", str(int(epoch) + 1), "--resume_from_checkpoint", "last")
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """A limit on the size of files, under which torch reports an "unexpected pos"."""
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.training.test_resume import At, make_trainer
limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, -1))
trainer = make_trainer({str(tmp_path)!r}, callbacks=[At(2, limit)])
try:
    trainer.train()
except OSError as error:
    print(error)
"""
    done = subprocess.run(python("-c", program), cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.count(f"could not be written to `{tmp_path}") == 1, done.stderr[-2000:]
    assert find_checkpoint(str(tmp_path), "last") == str(tmp_path / "checkpoint-1")
