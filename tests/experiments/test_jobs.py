"""Runs of a sweep as processes and jobs of a cluster: kills, pre-emptions, and several at once."""

import json
import os
import pickle
import re
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.sweeps.grid import read_grid
from experiments.sweeps.point_folder import RUN
from experiments.sweeps.sweep import SweepRun, _run_here
from robust_vit_hf.training.checkpoints import find_checkpoint

from ..helpers.commands import kill_when, launch, start, wait_until
from ..helpers.experiment import SEEDS, SWEPT, is_trained, points, sweep, table, write_grid


def test_jobs_have_a_gpu_each(inputs, tmp_path, monkeypatch):
    """No more of them at once than `--jobs`; submitit gives the first GPU to each."""
    grid = read_grid(write_grid(tmp_path / "grid.yaml", inputs, variants=SWEPT, seeds=SEEDS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    running, counts = set(), []

    class Job:
        """Ends when it is asked for the second time."""

        def __init__(self, run: SweepRun):
            self.asked, self.gpu = 0, run.gpu
            running.add(self)
            counts.append(len(running))
            assert sorted(job.gpu for job in running) in (["3"], ["GPU-7"], ["3", "GPU-7"])

        def done(self) -> bool:
            self.asked += 1
            running.difference_update({self} if self.asked == 2 else {})
            return self.asked >= 2

        def exception(self) -> None:
            return None

    _run_here(SimpleNamespace(submit=Job), [SweepRun(point, tmp_path / "out") for point in grid.points], jobs=2)
    assert len(counts) == 4 and max(counts) == 2
    for executor, given, seen in (("debug", "0", "0"), ("local", "0", "5"), ("local", "", "")):
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        SweepRun(replace(grid.points[0], options={"dataset": "missing"}), tmp_path / "out", gpu="5")()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Folder of an `sbatch` that copies what it is given, and of a `scontrol` that records it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {"sbatch": f'cp "$1" {folder}/given\necho Submitted batch job 12345', "srun": "exit 1"}
    commands["scontrol"] = f'echo "$@" >> {folder}/scontrol.log'
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def sbatch_lines(slurm: Path, grid: Path, out: Path, *options) -> set[str]:
    """Options of the script that Slurm is given, but for paths."""
    printed = sweep(grid, out, "--cluster", "slurm", *options)
    assert printed.startswith("4 runs are submitted as 12345.\n")
    lines = (slurm / "given").read_text().splitlines()
    return {line for line in lines if line.startswith("#SBATCH") and str(out) not in line}


def test_slurm_is_given_an_array(slurm, inputs, tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=SWEPT, seeds=SEEDS)
    given = "array=0-3%1 gpus-per-node=1 job-name=robust-vit nodes=1 open-mode=append signal=USR2@90 time=4320"
    usual = {f"#SBATCH --{one}" for one in (*given.split(), "wckey=submitit")}
    assert sbatch_lines(slurm, grid, tmp_path / "first") == usual
    options = ["--jobs", 3, "--cluster_options", "slurm_partition=gpu", "timeout_min=60", "mem_gb=8"]
    changed = {f"#SBATCH --{one}" for one in ("array=0-3%3", "partition=gpu", "time=60", "mem=8GB")}
    assert sbatch_lines(slurm, grid, tmp_path / "out", *options) - usual == changed
    script = (slurm / "given").read_text()
    assert "submitit.core._submit" in script
    jobs = sorted((tmp_path / "out" / "logs").glob("*/12345_*_submitted.pkl"))
    submitted = [pickle.loads(path.read_bytes()) for path in jobs]
    assert [job.function.point.name for job in submitted] == [p.name for p in read_grid(grid).points]
    # After a pre-emption the same run is put into the queue again.
    again = submitted[0].function.checkpoint()
    assert isinstance(again.function, SweepRun) and again.function.point == submitted[0].function.point
    again.function()
    assert is_trained(tmp_path / "out" / again.function.point.name)


@pytest.mark.release
@pytest.mark.parametrize("notice", [False, True])
def test_a_preempted_run_is_queued_again_and_resumes(notice, slurm, inputs, tmp_path):
    """The process of a Slurm job gets the signals that precede a pre-emption, with or without SIGTERM as a notice
    before the one on which submitit queues it again, and is started again as Slurm does."""
    out, options = tmp_path / "out", {"num_train_epochs": 30, "save_total_limit": 30}
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants={"robustvit": {}}, options=options)
    assert "1 runs are submitted as 12345." in sweep(grid, out, "--cluster", "slurm")
    (logs,), (point,) = (out / "logs").iterdir(), read_grid(grid).points
    folder = out / point.name
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "12345", "SLURM_PROCID": "0"}
    job = partial(start, "-u", "-m", "submitit.core._submit", logs, **variables)
    process = job()
    wait_until(lambda: len(list((folder / RUN).glob("checkpoint-*"))) > 1, process)  # one is complete
    if notice:
        process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR2)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 255 and not is_trained(folder), log[-3000:]
    assert (slurm / "scontrol.log").read_text() == "requeue 12345\n"
    assert not (folder / "error.json").exists() and not list(logs.glob("*_result.pkl"))
    assert "begun, to resume" in sweep(grid, out, "--dry_run")
    checkpoint = find_checkpoint(str(folder / RUN), "last")
    done = json.loads(Path(checkpoint, "trainer_state.json").read_text())
    assert 0 < done["global_step"] < done["max_steps"]

    process = job()
    _, log = process.communicate(timeout=400)
    assert process.returncode == 0 and is_trained(folder), log[-3000:]
    state = json.loads((folder / RUN / "trainer_state.json").read_text())
    assert state["log_history"][: len(done["log_history"])] == done["log_history"]  # its steps are not done again
    assert "All 1 runs are complete." in sweep(grid, out, "--dry_run")


@pytest.mark.release
def test_a_killed_sweep_and_a_killed_run_give_the_same_table(swept, inputs, tmp_path):
    variants = {"robustvit": SWEPT["robustvit"]}
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=variants, seeds=SEEDS, options={"num_train_epochs": 5})
    # All in processes of their own, since weights depend on the number of threads in their last bit.
    command, out = ["-m", "experiments", "sweep", grid, "--output_dir"], tmp_path / "out"
    assert launch(*command, tmp_path / "whole", "--cluster", "debug").status == 0

    def begun() -> list[Path]:
        return [path for path in points(out) if list((path / RUN).glob("checkpoint-*"))]

    kill_when(lambda: bool(begun()), *command, out, "--cluster", "debug")
    kill_when(lambda: any(map(is_trained, points(out))), *command, out)
    # Now a run alone is killed, in its process: the sweep records it and goes on.
    process = start(*command, out, stdout=subprocess.PIPE)

    def process_of_a_run() -> int | None:
        for words in Path("/proc").glob("[0-9]*/cmdline") if begun() else ():
            with suppress(OSError):  # it may have ended
                if {"submitit.core._submit", str(out)} <= {*re.split("\0|/logs", words.read_text())}:
                    return int(words.parent.name)

    os.kill(wait_until(process_of_a_run, process), signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "failed: The process ended without a result" in printed and printed.count(": complete") == 1
    assert launch(*command, out, "--cluster", "debug").status == 0
    assert table(out, tmp_path / "a") == table(tmp_path / "whole", tmp_path / "b")


@pytest.mark.release
def test_two_sweeps_at_once_share_the_runs(inputs, tmp_path):
    """Both wait until all runs are complete, and none is run twice."""
    grid = write_grid(tmp_path / "grid.yaml", inputs, variants=SWEPT, seeds=SEEDS, options={"num_train_epochs": 4})
    command = ("-m", "experiments", "sweep", grid, "--output_dir", tmp_path / "out", "--cluster", "debug")
    sweeps = [start(*command, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate(timeout=400) for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], outputs[0][1][-3000:] + outputs[1][1][-3000:]
    assert all("All 4 runs are complete." in printed for printed, _ in outputs)
    assert sum(log.count("validation, after:   0%") for _, log in outputs) == 4
