"""Interrupted runs: what resumes, what is refused, and what stays on disk."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from robust_vit_hf import RobustViTTrainer
from robust_vit_hf.training import callbacks
from robust_vit_hf.training.callbacks import InterruptCallback, TrainingInterrupted
from robust_vit_hf.training.checkpoints import add_lora, find_checkpoint, finish_checkpoint, identity_of
from robust_vit_hf.utils.stage import STAGE_FILE, OtherInputs, folder_lock

from ..helpers.commands import call, python, succeed, wait_until
from ..helpers.tiny import ROOT, masked_dataset, masked_folder, save_pretrained, tensor_rows, tiny_config, tiny_vit


SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}


class At(TrainerCallback):
    """Calls a function at the end of a step, or of the epoch of which the step is the last."""

    def __init__(self, step: int, function, event: str = "step"):
        self.step, self.function = step, function
        setattr(self, f"on_{event}_end", self.call)

    def call(self, args, state, control, **kwargs):
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


@pytest.mark.parametrize(
    "change, named",
    [
        ({"learning_rate": 0.5}, "settings.learning_rate"),
        ({"seed": 1}, "settings.seed"),
        ({"gradient_accumulation_steps": 2}, "settings.gradient_accumulation_steps"),
        ({"model": tiny_vit(seed=1)}, "model"),
        ({"model": tiny_vit(num_attention_heads=4)}, "model"),
        ({"rows": masked_dataset(12, seed=3)}, "train dataset"),
    ],
)
def test_another_run_is_refused_by_name(begun, change, named):
    with pytest.raises(OtherInputs) as refused:
        make_trainer(begun, **change).train(resume_from_checkpoint=str(begun / "checkpoint-4"))
    assert refused.value.differing == [named]


def test_other_datasets_are_told_by_their_length():
    assert [identity_of(rows) for rows in (tensor_rows(3), tensor_rows(4), iter("abc"))] == [3, 4, None]


def test_logging_and_epochs_may_change(begun, tmp_path):
    settings = {"num_train_epochs": 3, "logging_steps": 2, "save_total_limit": 3}
    trainer = make_trainer(tmp_path, **settings, eval_strategy="steps", eval_steps=1, save_steps=2)
    trainer.train(resume_from_checkpoint=str(begun / "checkpoint-6"))
    assert trainer.state.global_step == 9 and {path.name for path in tmp_path.glob("checkpoint-*")} == {
        "checkpoint-8",
        "checkpoint-9",
    }
    logged = {
        name: [row["step"] for row in trainer.state.log_history if name in row] for name in ("loss", "eval_loss")
    }
    assert logged == {"loss": [*range(1, 7), 8], "eval_loss": [6, 7, 8, 9]}  # six of before


def test_an_adapter_is_recognised(tmp_path):
    """The modules that it adapts are a set, whose order differs from process to process."""
    trainer = make_trainer(tmp_path, model=add_lora(tiny_vit(), 2, "tiny"))
    modules = json.loads(trainer._inputs["adapter"])["target_modules"]
    assert len(modules) > 5 and modules == sorted(modules)
    trainer.train()
    assert (tmp_path / "checkpoint-3" / "base_model.json").is_file()  # as beside every adapter
    with pytest.raises(OtherInputs, match="adapter"):
        make_trainer(tmp_path, model=add_lora(tiny_vit(), 3, "tiny")).train(resume_from_checkpoint=True)
    make_trainer(tmp_path, model=add_lora(tiny_vit(), 2, "tiny")).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_an_earlier_version_is_refused(begun, tmp_path):
    checkpoint = shutil.copytree(begun / "checkpoint-4", tmp_path / "checkpoint-4")
    (checkpoint / STAGE_FILE).unlink()
    with pytest.raises(ValueError, match="earlier version"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(checkpoint))


def test_a_run_that_was_stopped_while_its_first_checkpoint_was_recorded_begins_again(tmp_path, monkeypatch):
    """By a full disk, or a kill between the Trainer's last file and the record."""

    def full(checkpoint, inputs):
        raise OSError(28, "No space left on device", str(checkpoint))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr("robust_vit_hf.training.checkpoints.finish_checkpoint", full)
        make_trainer(tmp_path).train()
    assert (tmp_path / "checkpoint-1" / "trainer_state.json").is_file()
    assert find_checkpoint(str(tmp_path), "last", begun=True) is None
    make_trainer(tmp_path).train()
    assert find_checkpoint(str(tmp_path), "last", begun=True) == str(tmp_path / "checkpoint-6")


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json"])
def test_a_checkpoint_that_lacks_a_file_does_not_count(begun, tmp_path, name):
    """The run goes on from the one before, and ends as if it had not been stopped."""
    for step in (3, 4):
        shutil.copytree(begun / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-4" / name).unlink()
    with pytest.raises(ValueError, match="is incomplete: a file is missing"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    shutil.copytree(begun / "checkpoint-4", tmp_path / "checkpoint-5 (copy)")
    assert find_checkpoint(str(tmp_path), "last", begun=True) == str(tmp_path / "checkpoint-3")
    last = shutil.copytree(begun / "checkpoint-4", tmp_path / "checkpoint-10")  # by its number
    assert find_checkpoint(str(tmp_path), "last", begun=True) == str(last)
    shutil.rmtree(last)
    make_trainer(tmp_path).train(resume_from_checkpoint=True)
    assert_same_weights(begun / "checkpoint-6", tmp_path / "checkpoint-6")


def test_an_earlier_checkpoint_is_deleted_when_the_new_one_is_complete(tmp_path, monkeypatch):
    """A kill before that leaves one to resume from."""
    finished = []

    def finish(checkpoint, inputs):
        finished.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))
        finish_checkpoint(checkpoint, inputs)

    monkeypatch.setattr("robust_vit_hf.training.checkpoints.finish_checkpoint", finish)
    make_trainer(tmp_path, num_train_epochs=1, save_total_limit=1).train()
    assert finished[1:] == [["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_the_record_counts_all_parts(tmp_path, monkeypatch):
    """A finished run that is resumed, here for the second time, does nothing, and records the time that it took."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(callbacks, "time", clock)
    make_trainer(tmp_path, callbacks=[At(2, lambda: setattr(clock, "now", 90.5))], num_train_epochs=1).train()
    make_trainer(tmp_path).train(resume_from_checkpoint=True)
    again = make_trainer(tmp_path)
    again.train(resume_from_checkpoint=True)
    again.create_model_card()
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["resumed"] and run["steps"] == 6 and run["seconds"] == 90.5
    fresh = make_trainer(tmp_path / "fresh")
    fresh.train()
    fresh.create_model_card()
    assert not json.loads((tmp_path / "fresh" / "run.json").read_text())["resumed"]


@pytest.mark.parametrize("launched", [True, False])
def test_a_second_signal_acts_at_once_but_under_a_launcher(monkeypatch, launched):
    """A launcher passes on a signal that its processes may have received themselves."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it
    at_once = False
    try:
        with InterruptCallback() as interrupt:
            signal.raise_signal(signal.SIGINT)
            interrupt.agree(SimpleNamespace(world_size=1))
            assert interrupt.received == signal.SIGINT
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                at_once = True
        assert at_once is not launched and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_a_signal_after_the_last_step_is_not_lost():
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), InterruptCallback():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_a_signal_without_checkpoints(tmp_path):
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingInterrupted, match=r"SIGTERM has .* after step 2\. There is no checkpoint"):
        make_trainer(tmp_path, callbacks=[stop], save_strategy="no").train()
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint(begun, tmp_path, number):
    """Late in an epoch, whose crops and dropout go on as if there had been no signal."""
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch"}
    trainer = make_trainer(tmp_path, callbacks=[At(5, lambda: os.kill(os.getpid(), number))], **settings)
    with pytest.raises(
        TrainingInterrupted, match=rf"{number.name} .*after step 5.*checkpoint-5`.*resume_from_check"
    ) as caught:
        trainer.train()
    assert caught.value.exit_status == 128 + number
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-5"]
    assert [log["step"] for log in trainer.state.log_history if "eval_loss" in log] == [3]  # none after the signal

    resumed = make_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6 and len(resumed.state.log_history) > len(trainer.state.log_history)
    assert_same_weights(begun / "checkpoint-6", tmp_path / "checkpoint-6")


def test_a_signal_keeps_its_checkpoint_beside_the_best(tmp_path):
    """Under the default limit of 1, at which the Trainer deletes every checkpoint but the best one when it ends."""
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "save_total_limit": 1, "learning_rate": 0.3}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "num_train_epochs": 5}
    trainer = make_trainer(tmp_path, callbacks=[At(11, lambda: os.kill(os.getpid(), signal.SIGTERM))], **settings)
    with pytest.raises(TrainingInterrupted, match=r"checkpoint-11`"):
        trainer.train()
    assert (tmp_path / "checkpoint-11" / "trainer_state.json").is_file()
    assert trainer.state.best_global_step < 11 and trainer.args.save_total_limit == 1
    assert (tmp_path / f"checkpoint-{trainer.state.best_global_step}" / "trainer_state.json").is_file()


def test_a_signal_during_validation_does_not_wait_for_its_end(tmp_path):
    class During(TrainerCallback):
        batches = 0

        def on_prediction_step(self, args, state, control, **kwargs):
            self.batches += state.global_step == 3
            if self.batches == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    during = During()
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "per_device_eval_batch_size": 1}
    trainer = make_trainer(tmp_path, callbacks=[during], **settings)
    with pytest.raises(TrainingInterrupted, match=r"after step 3.*checkpoint-3`"):
        trainer.train()
    assert during.batches <= 2  # of four images
    assert "eval_loss" in trainer.evaluate()  # the trainer is as usable as before
    resumed = make_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6


@pytest.mark.parametrize("step, steps, event", [(3, -1, "step"), (3, -1, "epoch"), (6, -1, "step"), (5, 5, "step")])
def test_a_checkpoint_that_a_signal_kept_from_its_validation_may_be_the_best(step, steps, event, tmp_path):
    """After the last step of an epoch; that of the training, too. It is validated before the training goes on, which draws the same
    random numbers then."""
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True, "max_steps": steps}
    settings |= {"metric_for_best_model": "loss", "greater_is_better": step == 3, "learning_rate": 0.01}
    settings |= {"method": "random_erasing"}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    stop = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM), event)
    with pytest.raises(TrainingInterrupted, match=f"after step {step}"):
        make_trainer(tmp_path / "broken", callbacks=[stop], **settings).train()
    resumed = make_trainer(tmp_path / "broken", **settings)
    resumed.train(resume_from_checkpoint=True)

    def validated(trainer):
        return {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}

    assert validated(resumed) == validated(whole)
    assert resumed.state.best_global_step == whole.state.best_global_step == step
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name])


def test_a_moved_folder_keeps_its_best_checkpoint(tmp_path):
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "loss"}
    make_trainer(tmp_path / "before", **settings).train()
    (tmp_path / "before").rename(tmp_path / "moved")
    trainer = make_trainer(tmp_path / "moved", **settings | {"num_train_epochs": 3})
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint.startswith(str(tmp_path / "moved"))


@pytest.mark.slow
def test_a_command_ends_with_the_status_of_its_signal(tmp_path):
    """A process of its own, as a cluster stops it; the same command with `--resume_from_checkpoint last` ends the run."""
    masked_folder(tmp_path / "data")
    save_pretrained(tiny_vit(), tmp_path / "model")
    options = ["--model", tmp_path / "model", "--dataset", tmp_path / "data", "--output_dir", tmp_path / "run"]
    options += ["--num_train_epochs", "400", "--report_to", "none", "--use_cpu", "True", "--save_total_limit", "1"]
    command = python("-m", "robust_vit_hf.cli", "train", *options)
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
    wait_until((tmp_path / "run" / "checkpoint-4").is_dir, process)
    # The folder is in use.
    refused = call("train", *options)
    assert f"`{tmp_path / 'run'}` is in use by process {process.pid} on " in refused.error
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err, err[-3000:]
    assert "SIGTERM has stopped the training after step" in err.splitlines()[-1]
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    epochs = int(json.loads((last / "trainer_state.json").read_text())["epoch"]) + 1
    succeed("train", *options, "--num_train_epochs", str(epochs), "--resume_from_checkpoint", "last")
    assert (tmp_path / "run" / "results.json").is_file()


def test_lock(tmp_path):
    run = tmp_path / "run"
    with folder_lock(run, "train") as begun, folder_lock(run, "train"):  # the same process may enter twice
        assert not begun
        (run / "file").touch()
    assert (run / ".train.lock").read_text() == ""  # no name of a host stays behind
    (run / ".train.lock").write_text('{"pid": 1, "host": "gone", "since": "yesterday"}')  # as a kill leaves it
    with folder_lock(run, "train") as begun, folder_lock(run, "prepare") as prepared:
        assert begun and not prepared
    with pytest.raises(KeyError), folder_lock(tmp_path / "empty", "train"):
        raise KeyError
    assert not (tmp_path / "empty").exists()


def test_a_run_without_a_checkpoint_begins_again(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ValueError, match="--resume_from_checkpoint last"):
        find_checkpoint(str(tmp_path), None, begun=True)
    assert find_checkpoint(str(tmp_path), "last", begun=True) is None
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").touch()  # without a stage, as of an earlier version
    with pytest.raises(ValueError, match="earlier version"):
        find_checkpoint(str(tmp_path), "last", begun=True)
    shutil.rmtree(tmp_path / "checkpoint-3")
    with pytest.raises(ValueError, match="other files, such as `checkpoint-1`"):
        find_checkpoint(str(tmp_path), None, begun=False)
    with pytest.raises(ValueError, match="no run that can be resumed"):
        find_checkpoint(str(tmp_path), "last", begun=False)


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
try:
    trainer.save_model()
except OSError as error:
    print(error)
"""
    done = subprocess.run(python("-c", program), cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.count(f"could not be written to `{tmp_path}") == 2, done.stderr[-2000:]
    assert find_checkpoint(str(tmp_path), "last", begun=True) == str(tmp_path / "checkpoint-1")
