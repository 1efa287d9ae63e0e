"""Sweeps: the runs of a grid, on this machine or as jobs of a cluster."""

import json
import os
import shutil
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Self

import submitit
import torch
from tqdm.auto import tqdm
from transformers.trainer_utils import IntervalStrategy

from ..data.benchmarks import benchmarks
from ..evaluation.evaluate import evaluate
from ..evaluation.named_sets import NamedSource
from ..evaluation.options import EvaluateOptions
from ..evaluation.sets import load_evaluation_sets
from ..models.loading import load_model
from ..models.model_digest import model_digest
from ..models.model_names import BUNDLED_MODEL
from ..models.preprocessing import Preset, is_of_paper, resolve_preset
from ..training.checkpoints import identity_of
from ..training.config import RobustViTConfig
from ..training.finetuning import DRAWN_FROM_BENCHMARKS, finetune, load_data
from ..training.interrupts import TrainingInterrupted
from ..training.options import DataArguments, ModelArguments
from ..utils.files import RESULTS_FILE, read_json, write_json
from ..utils.lock import folder_lock, lock_file
from ..utils.stage import Stage
from .grid import CHOICES, Grid, Point, read_grid
from .options import SweepOptions
from .points import (
    ERROR_FILE,
    GRID_FILE,
    LOGS,
    ORIGINALS,
    POINT_FILE,
    PREDICTIONS,
    ROBUSTNESS,
    RUN,
    has_result,
    is_trained,
)
from .recipes import train_arguments
from .validation import check_validation_images, has_shares, measure_shares


THREE_DAYS = 3 * 24 * 60  # default time limit of a job in minutes; submitit's is 5


class RunsFailedError(ValueError):
    """Some runs of a sweep failed.

    Args:
        text: one line per run with its state.
    """

    def __init__(self, message: str, text: str):
        super().__init__(message)
        self.text = text


def sweep(options: SweepOptions) -> str:
    """Run the incomplete points of a grid, each in its own folder. Interrupted points are resumed. A failure is
    recorded, the other points go on, and the next sweep retries it.

    Several sweeps may share a folder: a point that another process is running is awaited and never run twice.

    Returns:
        One line per point with its state, and an estimate of the remaining time.

    Raises:
        ValueError: as [`read_grid`]; options, model or data of a point do not fit together, or a folder holds another
            point. Raised before the first run.
        OSError: a grid, model or set does not exist.
        RunsFailedError: runs failed, now or earlier.
    """
    grid, output_dir, jobs = read_grid(options.grid, options.imagenet), options.output_dir, options.jobs
    pending = [point for point in grid.points if not is_complete(output_dir / point.name, point, grid)]
    inputs = _check(grid, output_dir)
    submitted = ""
    if not options.dry_run:
        # Jobs are named by process id, which an earlier sweep may have used.
        logs = output_dir / LOGS / datetime.now().strftime("%Y%m%d-%H%M%S")
        executor = _executor(logs, options.cluster, jobs, dict(options.cluster_options))
        facts = {
            "validation_bound": grid.validation_bound,
            "choose_by": grid.choose_by,
            "mixtures": grid.mixtures,
            "points": [point.name for point in grid.points],
        }
        if read_json(output_dir / GRID_FILE) != facts:
            output_dir.mkdir(parents=True, exist_ok=True)
            write_json(output_dir / GRID_FILE, facts)
        if pending:
            submitted = _run(executor, pending, inputs, grid, options)
    lines = describe(grid, output_dir, jobs)
    if failed := lines.count(": failed: "):
        message = f"{failed} of {len(grid.points)} runs have failed, see above and their `error.json`."
        raise RunsFailedError(message, submitted + lines)
    return submitted + lines


def _run(
    executor: submitit.AutoExecutor, pending: list[Point], inputs: dict[str, dict], grid: Grid, options: SweepOptions
) -> str:
    """Run points, or submit them to slurm without waiting. Returns a message about what was submitted."""
    output_dir = options.output_dir
    for point in pending:
        (output_dir / point.name).mkdir(parents=True, exist_ok=True)
        facts = asdict(point) | {
            "results": measured_in(point) if grid.sets else PREDICTIONS,
            "inputs": inputs[point.name],
        }
        write_json(output_dir / point.name / POINT_FILE, facts)
    if options.cluster == "slurm":
        with executor.batch():
            jobs = [executor.submit(Run.of(point, output_dir, grid)) for point in pending]
        return f"{len(jobs)} runs are submitted as {jobs[0].job_id.partition('_')[0]}.\n"
    if options.cluster == "debug":
        _run_all(executor, pending, grid, output_dir, 1)
    else:
        with _ended_by_signals():
            _run_all(executor, pending, grid, output_dir, options.jobs)
    return ""


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End at a SIGTERM or SIGHUP as at Ctrl+C, so that the processes of the runs end too: submitit's outlive this one. Ctrl+C also ends
    a sweep in the background, where a shell ignores it: the processes of the runs would ignore what is to end them."""
    is_main = threading.current_thread() is threading.main_thread()
    kinds = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if is_main else []
    before = {kind: signal.getsignal(kind) for kind in kinds}
    for kind, handler in before.items():
        if kind != signal.SIGHUP or handler is not signal.SIG_IGN:  # as by `nohup`
            signal.signal(kind, signal.default_int_handler)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@dataclass
class Run:
    """A point run by submitit, in its own process or in this one.

    Args:
        folder: folder of the sweep.
        sets: the paper's sets, with their folders.
        mixtures: as [`mixtures_of`].
        gpu: the GPU of a local job, which submitit would start on the first one; `None` for the one that the process has.
    """

    point: Point
    folder: Path
    sets: Sequence[tuple[str, str]]
    mixtures: Sequence[float] | None
    gpu: str | None = None

    @classmethod
    def of(cls, point: Point, folder: Path, grid: Grid) -> Self:
        return cls(point, folder, grid.sets, mixtures_of(grid))

    def __call__(self) -> bool:
        """Run the point and record an error. Returns `False` if another process is running it."""
        one_gpu = os.environ.get("CUDA_VISIBLE_DEVICES") == "0"  # and no `gpus_per_node` of the user's
        if self.gpu is not None and one_gpu and os.environ.get("SUBMITIT_EXECUTOR") == "local":
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        folder = self.folder / self.point.name
        try:
            with folder_lock(folder, "sweep"):
                (folder / ERROR_FILE).unlink(missing_ok=True)  # from the last attempt
                try:
                    self._run(folder)
                except TrainingInterrupted as interrupt:
                    on_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
                    while on_slurm and interrupt.exit_status == 128 + signal.SIGTERM:
                        # Slurm announces a pre-emption, then ends and requeues the job, or lets submitit do so; a job
                        # that exits by itself before that is not requeued.
                        signal.pause()
                    raise
                except Exception as error:  # the other runs go on after any error
                    write_error(folder, error)
        except BlockingIOError:
            return False
        return True

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Requeue the same run after a pre-emption; it resumes."""
        return submitit.helpers.DelayedSubmission(self)

    def _run(self, folder: Path) -> None:
        model, data, config = arguments_of(self.point, folder / RUN)
        if not is_trained(folder):
            for stale in [
                *(folder / PREDICTIONS).glob("*/after"),
                *(folder / measured_in(self.point)).glob("*/after"),
                *folder.glob("shares/*/*/after"),
                *folder.glob("shares/*/sets/*/after"),
            ]:  # from an incomplete training
                shutil.rmtree(stale)
            config.resume_from_checkpoint = "last" if lock_file(folder / RUN, "train").exists() else None
            finetune(model, data, config, folder / PREDICTIONS, self.folder / ORIGINALS)
        for checkpoint in checkpoints_of(folder):
            shutil.rmtree(checkpoint)
        if self.mixtures is not None and not has_shares(folder, self.mixtures):
            measure_shares(model, data, config, folder, self.folder / ORIGINALS, self.mixtures)
        if sets := unmeasured(folder, self.point, self.sets):
            options = EvaluateOptions(
                model=model.model,
                compare=str(folder / RUN),
                sets=[NamedSource(*named) for named in sets],
                protocols=[protocol_of(self.point)],
                batch_size=config.per_device_eval_batch_size,
                num_workers=config.dataloader_num_workers,
                output_dir=folder / ROBUSTNESS,
            )
            evaluate(options, self.folder / ORIGINALS)


def protocol_of(point: Point) -> Preset:
    """Protocol of a run on the paper's sets: `paper` for a registered model, since the report shows the published figures beside it,
    and else the preset of its training."""
    return _protocol(point.options.get("model", BUNDLED_MODEL), point.options.get("preset"))


@cache
def _protocol(model: str, preset: Preset | None) -> Preset:
    return "paper" if is_of_paper(model) else resolve_preset(preset, model)


def measured_in(point: Point) -> str:
    """Folder of the results on the paper's sets, in that of the point."""
    return f"{ROBUSTNESS}/{protocol_of(point)}"


def write_error(folder: Path, error: Exception) -> None:
    """Record the error of a failed run in one line."""
    kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    write_json(folder / ERROR_FILE, {"error": kind + " ".join(str(error).split())})


def is_complete(folder: Path, point: Point, grid: Grid) -> bool:
    """Whether a point has all its results, and no checkpoints any more."""
    mixtures = mixtures_of(grid)
    if mixtures is not None and not has_shares(folder, mixtures):
        return False
    return is_trained(folder) and not checkpoints_of(folder) and not unmeasured(folder, point, grid.sets)


def checkpoints_of(folder: Path) -> list[Path]:
    """Checkpoints of the run of a point. With the optimizer, each has three times the model's size."""
    return sorted((folder / RUN).glob("checkpoint-*"))


def mixtures_of(grid: Grid) -> list[float] | None:
    """Mixtures to measure on the validation images; `None` where the rule of the grid does not need that."""
    return grid.mixtures if grid.choose_by == "mixed_rand" else None


def unmeasured(folder: Path, point: Point, sets: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The given sets of the paper on which a point was not measured. Another grid may have measured others."""
    return [(name, source) for name, source in sets if not has_result(folder / measured_in(point) / name / "after")]


def arguments_of(point: Point, output_dir: Path) -> tuple[ModelArguments, DataArguments, RobustViTConfig]:
    """Arguments of [`finetune`] for a point."""
    return train_arguments(**point.options | {"output_dir": str(output_dir)})


def describe(grid: Grid, output_dir: Path, jobs: int) -> str:
    """One line per point with its state, and an estimate of the remaining time from the seconds of complete points."""
    lines, left, seconds = [], 0, []
    for point in grid.points:
        folder = output_dir / point.name
        if is_complete(folder, point, grid):
            state = "complete"
            seconds.append(read_json(folder / RUN / RESULTS_FILE)["settings"]["seconds"])
        else:
            left += 1
            error = read_json(folder / ERROR_FILE)
            state = "running" if _in_use(folder) else f"failed: {error['error']}" if error else "to run"
            if state == "to run" and (folder / RUN).is_dir():
                state = "begun, to resume"
        lines.append(f"{point.name}: {state}")
    if left and seconds:
        minutes = left * sum(seconds) / len(seconds) / jobs / 60
        lines.append(
            f"{left} of {len(lines)} runs are left: about {minutes:.0f} minutes, after those that are complete."
        )
    elif left:
        lines.append(f"{left} of {len(lines)} runs are left. None is complete, so their time is not known.")
    else:
        lines.append(f"All {len(lines)} runs are complete.")
    return "\n".join(lines)


def _all_settings(model: ModelArguments, data: DataArguments, config: RobustViTConfig) -> str:
    """All settings of a point, defaults too, as text."""
    settings = config.to_sanitized_dict()
    own = ("output_dir", "logging_dir", "run_name")  # of the point's folder
    kept = {name: value for name, value in settings.items() if name not in own} | {"backgrounds": config.backgrounds}
    unread = () if data.dataset in benchmarks() else DRAWN_FROM_BENCHMARKS
    read = {name: value for name, value in asdict(data).items() if name not in unread}
    text = json.dumps([asdict(model), read, kept], sort_keys=True, default=str)
    return json.dumps(json.loads(text, parse_int=float))  # 1 is 1.0


def _check(grid: Grid, output_dir: Path) -> dict[str, dict]:
    """Refuse points that cannot be run, or were run on another model or other images, before running any: parse the
    arguments of all points, and load each model and dataset once.

    Returns:
        Identities of model and data, by point.
    """
    models: dict[tuple, tuple] = {}
    data: dict[tuple, list] = {}
    inputs, digests = {}, {}
    trained: dict[str, str] = {}  # names of points by all of their settings
    rates: dict[tuple, set[float | None]] = defaultdict(set)  # of each method
    for point in grid.points:
        rates[_method_of(point)].add(point.options.get("learning_rate"))
    protocols = {protocol_of(point) for point in grid.points}
    sets = {protocol: load_evaluation_sets(grid.sets, protocol, 1) for protocol in protocols}
    for point in grid.points:
        folder = output_dir / point.name
        known = _check_record(point, folder)
        try:
            model, of_data, config = arguments_of(point, folder / RUN)
            several = len(rates[_method_of(point)]) > 1
            unknown = IntervalStrategy.NO in (config.eval_strategy, config.logging_strategy)
            if several and grid.choose_by == CHOICES[0] and unknown:
                raise ValueError(
                    "its learning rate is chosen by top-1 on the validation images, which is not measured if `eval_strategy` or "
                    '`logging_strategy` is "no": leave these out, or give `choose_by: mixed_rand`.'
                )
            first = trained.setdefault(_all_settings(model, of_data, config), point.name)
            if first != point.name:
                raise ValueError(
                    f"it is the same run as `{first}`, with a setting spelled differently or without effect: remove one, or set an option apart."
                )
            name = (model.model, model.trust_remote_code)
            if name not in models:
                loaded = load_model(*name)
                models[name] = (loaded.config, model_digest(loaded))
            key = (*name, json.dumps(asdict(of_data)), config.seed)
            if key not in data:
                train, validation, measured = load_data(of_data, models[name][0], config.seed)
                if mixtures_of(grid) is not None:
                    check_validation_images(validation)
                data[key] = [identity_of(train), identity_of(validation)]
                if of_data.test_split is not None:
                    data[key] += [identity_of(rows.dataset) for rows in measured.values()]
        except (ValueError, OSError) as error:
            kind = ValueError if isinstance(error, ValueError) else OSError
            raise kind(f"{point.name}: {error}") from error
        inputs[point.name] = {"model": models[name][1], "datasets": data[key]}
        begun = {} if known is None else known.get("inputs", {})
        named = {"model": f"model than `{model.model}`", "datasets": f"dataset than `{of_data.dataset}`"}
        changed = [
            text
            for what, text in named.items()
            if begun.get(what, inputs[point.name][what]) != inputs[point.name][what]
        ]
        for name_of_set, rows in sets[protocol_of(point)].items():
            found = Stage.of(folder / measured_in(point) / name_of_set / "after").inputs
            key = (protocol_of(point), name_of_set, name)
            if found and key not in digests:
                digests[key] = rows.for_model(name_of_set, models[name][0]).digest
            if found and found.get("rows") != digests[key]:
                changed.append(f"`{name_of_set}` than there")
        if changed:
            raise ValueError(
                f"`{folder}` was run on another {changed[0]} is now: choose another --output_dir, or delete it."
            )
    return inputs


def _check_record(point: Point, folder: Path) -> dict | None:
    """The record of a point in its folder, by an earlier sweep; `None` if there is none.

    Raises:
        ValueError: the folder holds a run of other settings, or without a record, or the record is damaged.
    """
    known = read_json(folder / POINT_FILE)
    if known is None:
        if (folder / RUN).exists():
            raise ValueError(f"`{folder}` holds a run without its `{POINT_FILE}`: choose another --output_dir.")
        return None
    if "options" not in known:
        raise ValueError(
            f"`{folder / POINT_FILE}` holds no options of a run: delete `{folder}`, and run the sweep again."
        )
    if _settings(known["options"]) != _settings(point.options):
        raise ValueError(
            f"`{folder}` holds a run of other settings, see its `{POINT_FILE}`: choose another --output_dir, or delete it."
        )
    return known


def _method_of(point: Point) -> tuple[str, str, str]:
    """What a learning rate is chosen for."""
    return point.model, point.variant, json.dumps(point.crossed)


def _executor(folder: Path, cluster: str, jobs: int, options: dict) -> submitit.AutoExecutor:
    """Executor of a cluster, with one GPU per run, if there are any.

    Raises:
        OSError: the cluster is not available on this machine.
        ValueError: unknown parameter.
    """
    parameters = {"timeout_min": THREE_DAYS, "gpus_per_node": min(1, torch.cuda.device_count())}
    if cluster == "slurm":
        parameters |= {"gpus_per_node": 1, "slurm_array_parallelism": jobs, "slurm_job_name": "robust-vit"}
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
    except RuntimeError as error:
        raise OSError(f"Cannot use the cluster `{cluster}`: {error} Name another --cluster.") from error
    try:
        executor.update_parameters(**parameters | options)
    except (NameError, TypeError, ValueError) as error:
        raise ValueError(f"--cluster_options: {error}") from error
    return executor


def _settings(options: dict) -> dict:
    """Options without the dataset folder, which may have moved."""
    return json.loads(json.dumps({**options, "dataset": Path(options.get("dataset", "")).name}))


def _run_all(executor: submitit.AutoExecutor, points: list[Point], grid: Grid, output_dir: Path, jobs: int) -> None:
    """Run points, `jobs` at a time, until each is complete or has failed. Jobs are spread over the GPUs that this process sees."""
    waiting, running = list(points), {}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
    with tqdm(total=len(grid.points), initial=len(grid.points) - len(points), desc="runs", unit="run") as progress:
        try:
            while waiting or running:
                for job in [job for job in running if job.done()]:
                    point, _ = running.pop(job)
                    killed = job.exception()
                    if killed is None and not job.result():
                        waiting.append(point)
                        continue
                    if killed is not None:
                        log = job.paths.stderr
                        error = OSError(f"The process ended without a result, see `{log}`. The next sweep resumes it.")
                        write_error(output_dir / point.name, error)
                    progress.update()
                for point in [point for point in waiting if not _in_use(output_dir / point.name)]:
                    if len(running) == jobs:
                        break
                    waiting.remove(point)
                    if is_complete(output_dir / point.name, point, grid):  # by another sweep
                        progress.update()
                        continue
                    progress.set_postfix_str(point.name)
                    used = [gpu for _, gpu in running.values()]
                    gpu = min(gpus, key=used.count, default=None)
                    running[executor.submit(replace(Run.of(point, output_dir, grid), gpu=gpu))] = (point, gpu)
                if waiting or running:
                    time.sleep(0.2)
        except BaseException:
            for job in running:
                job.cancel(check=False)
            raise


def _in_use(folder: Path) -> bool:
    """Whether another process is running in the folder of a point. The lock is tried only if its file names a process: while it is
    tried, a job that begins cannot have it."""
    file = lock_file(folder, "sweep")
    if not file.exists() or not file.read_text():
        return False
    try:
        with folder_lock(folder, "sweep"):
            return False
    except BlockingIOError:
        return True
