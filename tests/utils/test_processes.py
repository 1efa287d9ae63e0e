"""What a command changes in its process, and calls from Python do not; which code a result is of; and signals that end a command, as
the shell left them."""

import json
import runpy
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from robust_vit_hf.utils import environment
from robust_vit_hf.utils.processes import end_by_signals, make_accelerator

from ..helpers.commands import launch


def test_precision_changes_within_a_process():
    """As of `diagnose(…)`, and then `diagnose(…, bf16=True)` in one notebook."""
    wanted = ["no", "bf16", "bf16", "no"]
    assert [make_accelerator(precision == "bf16").mixed_precision for precision in wanted] == wanted


# Prints which of the changes of a process were asked for.
REPORT = """
import subprocess, sys
from types import SimpleNamespace
import torch
from robust_vit_hf.utils import processes
changes = set()
libc = SimpleNamespace(mallopt=lambda *_: changes.add("allocator"))
processes.ctypes = SimpleNamespace(CDLL=lambda _: libc)
run = subprocess.run
subprocess.run = lambda command, **options: changes.add(command[0]) or run(command, **options)
"""


def test_results_do_not_make_code_dirty_and_edits_do(tmp_path):
    """A result that is written between two trainings leaves the commit of the second as it is."""

    def git(*words: str) -> str:
        command = ["git", "-C", tmp_path, "-c", "user.name=A", "-c", "user.email=a@b", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    code, recipe = tmp_path / "package" / "utils" / "environment.py", tmp_path / "recipe.yaml"
    results = tmp_path / "results.json"
    code.parent.mkdir(parents=True)
    shutil.copy(Path(environment.__file__), code)
    results.write_text("1")
    recipe.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "--message", "Begin")
    results.write_text("2")
    assert runpy.run_path(str(code))["loaded_commit"]() == git("rev-parse", "HEAD")
    for edited in (recipe, code):
        edited.write_text(edited.read_text() + "\n")
        assert runpy.run_path(str(code))["loaded_commit"]() == git("rev-parse", "HEAD") + "-dirty"
        git("checkout", edited)


@pytest.mark.slow
def test_a_command_sets_up_its_process_and_calls_from_python_leave_it_as_it_is(inputs, tmp_path):
    """Results of a command name the commit, and freed memory is kept. Torch keeps its threads, so that commands side by side do not
    contend for the cores."""
    code = """
torch.set_num_threads(3)
import contextlib
from robust_vit_hf.masks.background_remover import background_remover
from transformers import AutoImageProcessor, AutoModelForImageClassification
import robust_vit_hf
model, data, folder = sys.argv[1:]
given = AutoModelForImageClassification.from_pretrained(model), data
processor = AutoImageProcessor.from_pretrained(model)
robust_vit_hf.diagnose(*given, processor=processor, output_dir=f"{folder}/diagnosis")
robust_vit_hf.improve(*given, f"{folder}/better", processor=processor, max_steps=1)
rows = robust_vit_hf.load_masked_dataset(data, "train").with_transform(robust_vit_hf.train_transform(processor))
config = robust_vit_hf.RobustViTConfig(f"{folder}/run", max_steps=1, eval_strategy="no", report_to="none")
trainer = robust_vit_hf.RobustViTTrainer(given[0], config, rows, processing_class=processor)
trainer.train()
trainer.save_model()
trainer.create_model_card()
with contextlib.suppress(ValueError):
    background_remover("none")
assert not changes and torch.get_num_threads() == 3, (changes, torch.get_num_threads())
from robust_vit_hf.cli.main import main
assert main(["diagnose", "--model", model, "--dataset", data, "--output_dir", f"{folder}/command"]) == 0
assert changes == {"allocator", "git"}, changes
"""
    completed = launch("-c", REPORT + code, inputs / "model", inputs / "data", tmp_path)
    assert completed.status == 0, completed.err
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("diagnosis", "command")]
    assert not results[0]["commit"] and results[1]["commit"] and results[1]["hardware"].endswith(" 3 CPU threads")


@pytest.mark.parametrize(
    "kind, before, after",
    [
        (signal.SIGINT, signal.SIG_IGN, signal.default_int_handler),  # in the background of a script
        (signal.SIGTERM, signal.SIG_IGN, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_IGN, signal.SIG_IGN),  # by nohup
        (signal.SIGHUP, signal.SIG_DFL, signal.default_int_handler),
    ],
)
def test_which_signals_end_a_command(kind, before, after):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(kind, before)
        end_by_signals()
        assert signal.getsignal(kind) is after
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
