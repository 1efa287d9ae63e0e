"""Options of `robust-vit sweep` and `report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robust_vit_hf.utils.options import COUNT, Options, option, output_dir


@dataclass(kw_only=True)
class SweepOptions(Options):
    """Run the trainings of a grid, each in a folder of its own.

      robust-vit sweep trainer/grids/emoji-shift.yaml --output_dir runs/emoji-shift-grid --dry_run
      robust-vit sweep trainer/grids/emoji-shift.yaml --output_dir runs/emoji-shift-grid
      robust-vit sweep trainer/grids/table1.yaml --imagenet sets --output_dir runs/table1 --cluster slurm --jobs 8 \\
          --cluster_options slurm_partition=gpu timeout_min=1440
      robust-vit report runs/emoji-shift-grid --output_dir runs/report

    The same command again resumes what was interrupted, tries again what has failed, and skips what is complete. The grid file is
    described in docs/experiments.md.
    """

    grid: Path = option(text="YAML file of the grid", positional=True)
    output_dir: Path = output_dir()
    imagenet: Path | None = option(
        None, "folder of outputs of `robust-vit data prepare`, each under the name of its set", metavar="FOLDER"
    )
    cluster: Literal["local", "debug", "slurm"] = option("local", "processes here, this process, or jobs of slurm")
    jobs: int = option(1, "runs at once", COUNT)
    cluster_options: list[str] = option(
        [], "parameters of submitit's executor, such as slurm_partition=gpu", metavar="NAME=VALUE"
    )
    dry_run: bool = option(False, "list the runs, their states and an estimate of the time")


@dataclass(kw_only=True)
class ReportOptions(Options):
    """Make the paper's tables and figures from the runs of a sweep, and check its findings.

      robust-vit report runs/emoji-shift-grid --output_dir runs/report
      robust-vit report runs/emoji-shift-grid runs/emoji-shift-others --output_dir runs/report
      robust-vit report runs/report/results.parquet --output_dir runs/report
      robust-vit report runs/robustness --html --output_dir runs/report

    With --html, the report is also one HTML file for any browser, with sortable changes by class and a gallery of relevance maps; it
    can be that of one `robust-vit train` or `evaluate` as well.

    Of several settings of a method, the one is shown that the rule of the grid chooses on the validation images (see
    docs/experiments.md).
    """

    sources: list[Path] = option(
        text="folders of sweeps or of their runs, and files results.parquet; with --html, also one output folder of `robust-vit train` "
        "or `evaluate`",
        positional=True,
    )
    html: bool = option(False, "write report.html, one file that loads nothing")
    output_dir: Path = output_dir()
