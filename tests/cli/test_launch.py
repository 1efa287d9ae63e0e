"""What `accelerate launch` and slurm start: config files, FSDP2, signals, and scripts."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from transformers import ViTForImageClassification

from robust_vit_hf.training.adapters import add_lora
from robust_vit_hf.training.checkpoints import last_checkpoint
from robust_vit_hf.training.config import prepare_sharding

from ..helpers.commands import Completed, launch, start, succeed, wait_until
from ..helpers.tiny import ROOT, STILL, masked_folder, save_pretrained, tiny_vit
from ..training.test_trainer import assert_equal_weights


CONFIGS = ROOT / "trainer" / "accelerate_configs"
LAUNCH = ("-m", "accelerate.commands.launch", "--main_process_port", 0, "--num_cpu_threads_per_process", 1)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list:
    """Options of a training on files, whose global batches are whole: 16 images, of which a step takes 8."""
    folder = tmp_path_factory.mktemp("inputs")
    masked_folder(folder / "data", train=16)
    save_pretrained(tiny_vit(**STILL), folder / "model")
    options = ["--model", folder / "model", "--dataset", folder / "data", "--report_to", "none"]
    # The confidence target keeps a second model beside the trained one.
    options += ["--use_cpu", "True", "--background_swap", 0.5, "--confidence_target", "original"]
    return [*options, "--learning_rate", 0.001, "--logging_steps", 1]


def launched(config: str, *arguments, **environment) -> Completed:
    return launch(*LAUNCH, "--config_file", CONFIGS / config, *arguments, timeout=600, **environment)


def losses(run: Path) -> list[float]:
    """Of each step."""
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def assert_same_run(run: Path, other: Path) -> None:
    assert losses(run) == pytest.approx(losses(other), rel=1e-4)
    assert_equal_weights(*map(ViTForImageClassification.from_pretrained, (run, other)), atol=1e-5, rtol=1e-4)


def test_config_files_are_those_of_accelerate():
    files = sorted(CONFIGS.glob("*.yaml"))
    assert [path.stem for path in files] == ["cpu", "fsdp2", "one_gpu_bf16", "several_gpus", "several_nodes"]
    for path in files:
        assert load_config_from_file(str(path)).num_processes >= 1  # refuses unknown keys
    page = (ROOT / "docs" / "train.md").read_text()
    assert all(f"`{path.name}`" in page for path in files)


@pytest.mark.slow
def test_fsdp2_gives_the_run_of_one_process(options, tmp_path):
    """From the config file, checkpoints and a resume included. Of the model that was sharded, report and card are made."""
    one, fsdp = tmp_path / "one", tmp_path / "fsdp"
    train = (*options, "--control", "--per_device_train_batch_size")
    command = (
        "--num_processes",
        2,
        "--mixed_precision",
        "no",
        "--module",
        "tests.helpers.sharded",
        "train",
        *train,
        4,
    )
    command += ("--report_to", "tensorboard", "--output_dir", fsdp, "--num_train_epochs")
    succeed("train", *train, 8, "--num_train_epochs", 3, "--output_dir", one)
    runs = [launched("fsdp2.yaml", *command, *more) for more in ([2], [3, "--resume_from_checkpoint", "last"])]
    assert [run.status for run in runs] == [0] * 2, "\n".join(run.err[-2000:] for run in runs)
    assert len(losses(fsdp)) == 6
    assert_same_run(fsdp, one)
    rows = [json.loads((folder / "results.json").read_text())["rows"] for folder in (fsdp, one)]
    for name in ("num_images", "top1_before", "top1_after", "top1_control"):  # of the images of both processes
        measured, expected = ([row[name] for row in of_run] for of_run in rows)
        assert measured == expected and None not in measured
    assert (fsdp / "before_after.png").is_file()
    assert runs[1].out.count("| validation | 8 |") == 1  # one process writes
    assert json.loads((fsdp / "run.json").read_text())["architecture"] == "ViTForImageClassification"


@pytest.mark.parametrize(
    "settings, second_derivative, model, message",
    [
        ({"fsdp_version": 1}, False, tiny_vit(), "FSDP1 is not supported: set `fsdp_version: 2`"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, False, tiny_vit(), "set `fsdp_state_dict_type: FULL_STATE_DICT`"),
        ({"cpu_ram_efficient_loading": True}, False, tiny_vit(), "set `fsdp_cpu_ram_efficient_loading: false`"),
        ({"activation_checkpointing": True}, False, tiny_vit(), "discards attentions"),
        ({}, True, tiny_vit(), "a second derivative needs weights"),
        ({}, False, add_lora(tiny_vit(), 2, "tiny"), "adapters are not supported: use DDP"),
    ],
)
def test_what_fsdp2_cannot_train_is_refused(tmp_path, settings, second_derivative, model, message):
    plugin = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT", "cpu_ram_efficient_loading": False} | settings
    with patch.dict(os.environ), pytest.raises(ValueError, match=re.escape(message)):  # which the plugin writes into
        state = SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin(**plugin))
        prepare_sharding(SimpleNamespace(state=state), model, second_derivative)


@pytest.mark.release
def test_a_stopped_job_resumes_on_any_number_of_processes(options, tmp_path):
    # Swaps are drawn from the state of each process, which is another with another number of them.
    options = [*options, "--eval_strategy", "no", "--load_best_model_at_end", "False", "--background_swap", 0]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    command = [*LAUNCH, "--config_file", CONFIGS / "several_gpus.yaml", "--num_processes", 2]
    command += ["--mixed_precision", "no", "trainer/train.py", *options]
    command += ["--num_train_epochs", 400, "--per_device_train_batch_size", 4]
    job = start(*command, "--output_dir", stopped)
    wait_until((stopped / "checkpoint-4" / "trainer_state.json").is_file, job, timeout=500)  # all are kept
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate(timeout=300)
    step = json.loads(Path(last_checkpoint(stopped), "trainer_state.json").read_text())["global_step"]
    assert step >= 4

    options += ["--num_train_epochs", step // 2 + 2]
    whole_run = launch("trainer/train.py", *options, "--per_device_train_batch_size", 8, "--output_dir", whole)
    assert whole_run.status == 0, whole_run.err[-3000:]
    for count in (1, 2, 4):
        run = tmp_path / str(count)
        shutil.copytree(stopped, run)
        batch = ("--per_device_train_batch_size", 8 // count, "--output_dir", run)
        resumed = launched(
            "several_gpus.yaml" if count > 1 else "cpu.yaml",
            *("--num_processes", count, "--mixed_precision", "no", "trainer/train.py", *options, *batch),
            *("--resume_from_checkpoint", "last"),
        )
        assert resumed.status == 0, resumed.err[-3000:]
        assert_same_run(run, whole)
        assert len(losses(run)) > step


SRUN = """
# Starts the command on each of SLURM_NNODES nodes, which are this machine.
shift 2  # --cpus-per-task N
for node in $(seq 0 $((SLURM_NNODES - 1))); do
  SLURM_NODEID=$node "$@" &
  processes+=($!)
done
for process in "${processes[@]}"; do wait "$process" || exit 1; done
"""


def run_under_slurm(script: str, folder: Path, programs: dict[str, str], *arguments, **slurm) -> Completed:
    """Run a script of `trainer/slurm` with stand-ins for `srun`, `scontrol` and others, and variables of Slurm."""
    (folder / "bin").mkdir()
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()} | {"OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([f"{folder}/bin", str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", str(ROOT / "trainer" / "slurm" / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=600)
    return Completed(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "script, expected",
    [
        ("one_node.sh", "several_gpus.yaml --num_processes 8"),
        (
            "several_nodes.sh",
            "several_nodes.yaml --num_machines 3 --num_processes 24 --machine_rank 2 --main_process_ip first --main_process_port 20007",
        ),
    ],
)
def test_words_of_slurm_scripts(script, expected, tmp_path):
    """`srun` starts what it is given, and accelerate prints its words."""
    programs = {"srun": 'echo "$1 $2"; shift 2; exec "$@"'}
    programs["scontrol"] = "echo first; seq 20000"  # more than a pipe holds
    programs["accelerate"] = "printf '%s\n' \"$@\""
    slurm = {"NNODES": 3, "NODEID": 2, "GPUS_ON_NODE": 8, "CPUS_PER_TASK": 64}
    slurm |= {"JOB_NODELIST": "a,b,c", "JOB_ID": 40007}
    done = run_under_slurm(script, tmp_path, programs, "--model", "my model", **slurm)
    config, *words = expected.split()
    words = ["launch", "--config_file", f"trainer/accelerate_configs/{config}", *words, "trainer/train.py"]
    assert done.out.splitlines() == ["--cpus-per-task 64", *words, "--model", "my model"], done.err


@pytest.mark.release
@pytest.mark.parametrize("script, nodes", [("one_node.sh", 1), ("several_nodes.sh", 2)])
def test_slurm_scripts(options, tmp_path, script, nodes):
    run = tmp_path / "a run"  # a space, which shells split at
    programs = {"srun": SRUN, "scontrol": "echo 127.0.0.1"}
    slurm = {"NNODES": nodes, "GPUS_ON_NODE": 1, "CPUS_PER_TASK": 1, "JOB_NODELIST": "a,b", "JOB_ID": os.getpid()}
    words = (*options, "--num_train_epochs", 1, "--output_dir", run)
    done = run_under_slurm(script, tmp_path, programs, *words, **slurm)
    assert done.status == 0, done.err[-3000:]
    assert (run / "results.json").is_file()
    assert len(losses(run)) == (2 if nodes == 1 else 1)  # a step takes 8 images of each process
