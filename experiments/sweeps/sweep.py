"""Sweeps: the runs of a grid, on this machine or as jobs of a cluster."""

import json
import os
import shutil
import signal
from argparse import ArgumentError
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path

import submitit
import torch
import yaml
from datasets import Dataset, IterableDataset
from filelock import FileLock, Timeout
from submitit.helpers import DelayedSubmission
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from robust_vit_hf.data.dataset_digest import dataset_identity
from robust_vit_hf.data.known_sets import BUNDLED_BENCHMARK
from robust_vit_hf.data.schema import check_columns
from robust_vit_hf.data.stream import stream_identity
from robust_vit_hf.evaluation.evaluate import evaluate
from robust_vit_hf.evaluation.options import EvaluateOptions
from robust_vit_hf.evaluation.sets import load_evaluation_sets
from robust_vit_hf.finetuning import finetune
from robust_vit_hf.models.image_processors import Protocol, is_of_paper, resolve_protocol
from robust_vit_hf.models.loading import load_model, model_digest
from robust_vit_hf.models.model_names import BUNDLED_MODEL
from robust_vit_hf.training.checkpoints import last_checkpoint
from robust_vit_hf.training.config import RobustViTConfig
from robust_vit_hf.training.load_data import DRAWN_FROM_BENCHMARKS, load_data
from robust_vit_hf.training.options import DataArguments, ModelArguments
from robust_vit_hf.training.recipes import train_arguments
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.files import RESULTS_FILE, read_json, write_json
from robust_vit_hf.utils.processes import TrainingInterrupted, begin_command, end_by_signals

from .grid import Grid, Point, read_grid
from .measure_validation import measure_validation
from .options import SweepOptions
from .point_folder import (
    CACHE,
    ERROR_FILE,
    GRID_FILE,
    LOGS,
    PREDICTIONS,
    RECORD,
    ROBUSTNESS,
    RUN,
    VALIDATION,
    measured_sets,
    training_of,
)


THREE_DAYS = 3 * 24 * 60  # default time limit of a job in minutes; submitit's is 5


def sweep(options: SweepOptions) -> str:
    """Run the incomplete points of a grid, each in its own folder. Interrupted points are resumed. A failure is
    recorded, the other points go on, and the next sweep retries it.

    Several sweeps may share a folder: a point that another process is running is awaited and never run twice. If runs
    failed, the note of the error has the states of all.
    """
    grid, folder = read_grid(options.grid, options.imagenet), options.output_dir
    runs = _checked_runs(grid, folder)
    pending, submitted = [run for run in runs if not run.is_complete()], ""
    if not options.dry_run:
        # Jobs are named by process id, which an earlier sweep may have used.
        executor = _executor(options, folder / LOGS / datetime.now().strftime("%Y%m%d-%H%M%S"))
        facts = {
            "validation_bound": grid.validation_bound,
            "choose_by": grid.choose_by,
            "sets": [name for name, _ in grid.sets],
            "points": {run.point.name: json.loads(json.dumps(asdict(run.point))) for run in runs},
        }
        if read_json(folder / GRID_FILE) != facts:
            write_json(folder / GRID_FILE, facts)
        if pending and options.cluster == "slurm":
            with executor.batch():
                jobs = [executor.submit(run) for run in pending]
            submitted = f"{len(jobs)} runs are submitted as {jobs[0].job_id.partition('_')[0]}.\n"
        elif pending:
            _run_here(executor, pending, 1 if options.cluster == "debug" else options.jobs)
    lines = describe(runs, options.jobs)
    if failed := lines.count(": failed: "):
        error = ValueError(f"{failed} of {len(runs)} runs have failed, see above and their `{ERROR_FILE}`.")
        error.add_note(submitted + lines)
        raise error
    return submitted + lines


@dataclass
class SweepRun:
    """A point of a grid, run by submitit. Its folder holds the training, and what is measured of it."""

    point: Point
    root: Path  # folder of the sweep
    sets: Sequence[tuple[str, str]] = ()  # the paper's sets to measure, with their folders
    is_validated: bool = False  # whether to measure it on the validation images, on other backgrounds too
    inputs: dict = field(default_factory=dict)  # digests of the original model and of the datasets
    gpu: str | None = None  # of a local job, which submitit would start on the first one

    @property
    def folder(self) -> Path:
        return self.root / self.point.name

    @property
    def arguments(self) -> tuple[ModelArguments, DataArguments, RobustViTConfig]:
        return train_arguments(**self.point.options | {"output_dir": str(self.folder / RUN)})

    @property
    def lock(self) -> FileLock:
        return FileLock(self.folder / ".lock")

    def check_inputs(self) -> None:
        """Reject a folder that was made from another model or other images, whose names are the same."""
        recorded = read_json(self.folder / RECORD)
        if recorded and recorded | self.inputs != recorded:
            raise ValueError(
                f"`{self.folder}` was made from another model or dataset. Choose another --output_dir, or delete "
                "the folder."
            )

    def is_measured(self) -> bool:
        return {name for name, _ in self.sets} <= measured_sets(self.folder, protocol_of(self.point))

    def is_complete(self) -> bool:
        validated = not self.is_validated or (self.folder / VALIDATION).is_file()
        return training_of(self.folder) is not None and validated and self.is_measured()

    def is_running(self) -> bool:
        """Whether another process works in the folder."""
        try:
            with self.lock.acquire(timeout=0) if self.folder.is_dir() else nullcontext():
                return False
        except Timeout:
            return True

    def __call__(self) -> None:
        """Do what is missing, and record an error. Waits for another process that runs the point."""
        one_gpu = os.environ.get("CUDA_VISIBLE_DEVICES") == "0"  # and no `gpus_per_node` of the user's
        if self.gpu is not None and one_gpu and os.environ.get("SUBMITIT_EXECUTOR") == "local":
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        begin_command()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock:
            try:
                self._run()
            except TrainingInterrupted as interrupt:
                on_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
                while on_slurm and interrupt.exit_status == 128 + signal.SIGTERM:
                    # Slurm announces a pre-emption, then ends and requeues the job, or lets submitit do so; a job
                    # that exits by itself before that is not requeued.
                    signal.pause()
                raise
            except Exception as error:  # the other runs go on after any error
                self.record(error)

    def checkpoint(self) -> DelayedSubmission:
        """Requeue the same run after a pre-emption; it resumes."""
        return DelayedSubmission(self)

    def record(self, error: Exception) -> None:
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        write_json(self.folder / ERROR_FILE, {"error": kind + " ".join(str(error).split())})

    def _run(self) -> None:
        (self.folder / ERROR_FILE).unlink(missing_ok=True)  # from the last attempt
        model, data, config = self.arguments
        if training_of(self.folder) is None:
            self._train(model, data, config)
        cache = Cache(self.root / CACHE)
        if self.is_validated and not (self.folder / VALIDATION).is_file():
            measure_validation(model, data, config, self.folder, cache)
        if not self.is_measured():
            options = EvaluateOptions(
                model=model.model,
                compare=str(self.folder / RUN),
                sets=["=".join(named) for named in self.sets],
                protocols=[protocol_of(self.point)],
                batch_size=config.per_device_eval_batch_size,
                num_workers=config.dataloader_num_workers,
                output_dir=self.folder / ROBUSTNESS,
            )
            evaluate(options, cache)

    def _train(self, model: ModelArguments, data: DataArguments, config: RobustViTConfig) -> None:
        """Train, or resume the training, and record that it is complete."""
        write_json(self.folder / RECORD, self.inputs)
        for name in (PREDICTIONS, VALIDATION):  # of a lost training
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / ROBUSTNESS, ignore_errors=True)
        config.resume_from_checkpoint = "last" if (self.folder / RUN).is_dir() else None
        resumed = last_checkpoint(self.folder / RUN) is not None
        finetune(model, data, config, self.folder / PREDICTIONS, Cache(self.root / CACHE))
        facts = {
            "protocol": protocol_of(self.point),
            "seconds": read_json(self.folder / RUN / RESULTS_FILE)["settings"]["seconds"],
            "resumed": resumed,  # the seconds are those of the last part
        }
        write_json(self.folder / RECORD, self.inputs | {"training": facts})
        for checkpoint in (self.folder / RUN).glob("checkpoint-*"):  # with the optimizer, three times the model's size
            shutil.rmtree(checkpoint)


def protocol_of(point: Point) -> Protocol:
    """`paper` for a registered model, for which the report shows published figures, or the protocol of the
    training."""
    return _protocol(point.options.get("model", BUNDLED_MODEL), point.options.get("protocol"))


@cache
def _protocol(model: str, protocol: Protocol | None) -> Protocol:
    return "paper" if is_of_paper(model) else resolve_protocol(protocol, model)


def describe(runs: Sequence[SweepRun], jobs: int) -> str:
    """One line per run with its state, and an estimate of the remaining time from the seconds of complete runs."""
    lines, seconds = [], []
    for run in runs:
        training = training_of(run.folder)
        if training and run.is_complete():
            state = "complete"
            seconds.append(training["seconds"])
        elif run.is_running():
            state = "running"
        elif error := read_json(run.folder / ERROR_FILE):
            state = f"failed: {error['error']}"
        else:
            state = "begun, to resume" if (run.folder / RUN).is_dir() else "to run"
        lines.append(f"{run.point.name}: {state}")
    left = len(runs) - len(seconds)
    if not left:
        return "\n".join([*lines, f"All {len(runs)} runs are complete."])
    time_left = "None is complete, so their time is not known."
    if seconds:
        minutes = left * sum(seconds) / len(seconds) / jobs / 60
        time_left = f"They take about {minutes:.0f} minutes, as the complete ones did."
    return "\n".join([*lines, f"{left} of {len(runs)} runs are left. {time_left}"])


def _checked_runs(grid: Grid, root: Path) -> list[SweepRun]:
    """The runs of a grid, after all that can be rejected before the first of them: each model and dataset is loaded
    once."""
    for protocol in {protocol_of(point) for point in grid.points}:
        load_evaluation_sets(grid.sets, protocol, 1)
    models: dict[tuple, tuple[PreTrainedConfig, str]] = {}
    datasets: dict[str, tuple[list, bool]] = {}  # digests, and whether the validation images are measured
    runs, settings = [], []
    for point in grid.points:
        run = SweepRun(point, root, grid.sets, grid.choose_by == "mixed_rand")
        try:
            model, data, config = run.arguments
            settings.append(_all_settings(model, data, config))
            if (first := settings.index(settings[-1])) < len(runs):
                raise ValueError(f"it has the same settings as `{grid.points[first].name}`: remove one of them.")
            key = (model.model, model.trust_remote_code)
            if key not in models:
                loaded = load_model(*key)
                models[key] = (loaded.config, model_digest(loaded))
            of_data = json.dumps([key, asdict(data), config.seed])
            if of_data not in datasets:
                train, validation, measured = load_data(data, models[key][0], config.seed)
                if run.is_validated:
                    check_columns(validation, "validation")  # as `choose_by: mixed_rand` needs them
                tested = [] if data.test_split is None else [rows.dataset for rows in measured.values()]
                digests = [images and identity_of(images) for images in (train, validation, *tested)]
                datasets[of_data] = digests, data.eval_split in measured
            digests, has_top1 = datasets[of_data]
            alike = [one for one in grid.points if (one.model, one.variant) == (point.model, point.variant)]
            rates = {one.options.get("learning_rate") for one in alike}
            if not has_top1 and not run.is_validated and len(rates) > 1:
                raise ValueError(
                    "learning rates are chosen on validation images, which are not measured where there are test "
                    "images: leave "
                    "`test_split` out, or give `choose_by: mixed_rand`."
                )
        except (ValueError, OSError, ArgumentError) as error:
            raise ValueError(f"{point.name}: {error}") from error
        run.inputs = {"model": models[key][1], "datasets": digests}
        run.check_inputs()
        runs.append(run)
    return runs


def identity_of(images: Dataset | IterableDataset) -> str:
    return stream_identity(images) if isinstance(images, IterableDataset) else dataset_identity(images)


def _all_settings(model: ModelArguments, data: DataArguments, config: RobustViTConfig) -> list[dict]:
    """All settings that have an effect, defaults too. Two seeds of the same settings would count as two."""
    unread = () if data.dataset == BUNDLED_BENCHMARK else DRAWN_FROM_BENCHMARKS
    own = ("output_dir", "logging_dir", "run_name")
    of_data = {name: value for name, value in asdict(data).items() if name not in unread}
    kept = {name: getattr(config, name) for name in config.to_dict() if name not in own}
    return [asdict(model), of_data, kept]


def _executor(options: SweepOptions, logs: Path) -> submitit.AutoExecutor:
    """Executor of a cluster, with one GPU per run, if there are any."""
    parameters = {"timeout_min": THREE_DAYS, "gpus_per_node": min(1, torch.cuda.device_count())}
    if options.cluster == "slurm":
        parameters |= {"gpus_per_node": 1, "slurm_array_parallelism": options.jobs, "slurm_job_name": "robust-vit"}
    try:
        given = dict(parameter.split("=", 1) for parameter in options.cluster_options)
        parameters |= {name: yaml.safe_load(value) for name, value in given.items()}
        executor = submitit.AutoExecutor(logs, cluster=options.cluster)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"submitit rejects --cluster {options.cluster} or --cluster_options: {error}") from error
    return executor


def _run_here(executor: submitit.AutoExecutor, runs: Sequence[SweepRun], jobs: int) -> None:
    """Run points, `jobs` at a time, over the GPUs that this process sees. Those that another sweep runs come last."""
    end_by_signals()  # processes of submitit outlive this one
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
    waiting, working = deque(runs), {}
    with tqdm(total=len(runs), desc="runs", unit="run") as progress:
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    run = next((run for run in waiting if not run.is_running()), waiting[0])
                    waiting.remove(run)
                    used = [given.gpu for given in working.values()]
                    run = replace(run, gpu=min(gpus, key=used.count, default=None))
                    progress.set_postfix_str(run.point.name)
                    working[executor.submit(run)] = run
                done = next(submitit.helpers.as_completed([*working], poll_frequency=0.2))
                if done.exception() is not None:
                    log = done.paths.stderr
                    error = OSError(f"The process ended without a result, see `{log}`. The next sweep resumes it.")
                    working[done].record(error)
                del working[done]
                progress.update()
        except BaseException:
            for job in working:
                job.cancel(check=False)
            raise
