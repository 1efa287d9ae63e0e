"""Options of `python -m experiments sweep`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robust_vit_hf.utils.options import COUNT, Options, option, output_dir


@dataclass(kw_only=True)
class SweepOptions(Options):
    """Run the trainings of a grid, each in a folder of its own.

      python -m experiments sweep experiments/grids/emoji-shift.yaml --output_dir runs/emoji-shift-grid --dry_run
      python -m experiments sweep experiments/grids/emoji-shift.yaml --output_dir runs/emoji-shift-grid
      python -m experiments sweep experiments/grids/models-on-real-images.yaml --imagenet sets \\
          --output_dir runs/table1 --cluster slurm --jobs 8 --cluster_options slurm_partition=gpu timeout_min=1440
      python -m experiments report runs/emoji-shift-grid --output_dir runs/report

    The same command again resumes what was interrupted, tries again what has failed, and skips what is complete. The
    grid file is described in experiments/sweeps.md.
    """

    grid: Path = option(text="YAML file of the grid", positional=True)
    output_dir: Path = output_dir()
    imagenet: Path | None = option(
        None, "folder of outputs of `robust-vit data prepare`, each under the name of its set", metavar="FOLDER"
    )
    cluster: Literal["local", "debug", "slurm"] = option("local", "processes here, this process, or jobs of slurm")
    jobs: int = option(1, "runs at once", within=COUNT)
    cluster_options: list[str] = option(
        [], "parameters of submitit's executor, such as slurm_partition=gpu", metavar="NAME=VALUE"
    )
    dry_run: bool = option(False, "list the runs, their states and an estimate of the time")
