"""Options of `robust-vit sweep`."""

import argparse
from pathlib import Path

import yaml

from .parser import Parser, add_output_dir, count
from .train import check_train_option


DESCRIPTION = """Run the trainings of a grid, each in a folder of its own.

  robust-vit sweep trainer/grids/emoji-shift.yaml --output_dir runs/emoji-shift-grid --dry_run
  robust-vit sweep trainer/grids/emoji-shift.yaml --output_dir runs/emoji-shift-grid
  robust-vit sweep trainer/grids/table1.yaml --imagenet sets --output_dir runs/table1 --cluster slurm --jobs 8 \\
      --cluster_options slurm_partition=gpu timeout_min=1440
  robust-vit report runs/emoji-shift-grid --output_dir runs/report

The same command again resumes what was interrupted, tries again what has failed, and skips what is complete. The grid file is
described in docs/experiments.md."""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit sweep", description=DESCRIPTION)
    parser.add_argument("grid", type=Path, help="YAML file of the grid")
    add_output_dir(parser)
    parser.add_argument(
        "--imagenet",
        type=Path,
        metavar="FOLDER",
        help="folder of the outputs of `robust-vit data prepare`, each under the name of its set, for the grids of the paper",
    )
    parser.add_argument(
        "--cluster",
        choices=["local", "debug", "slurm"],
        default="local",
        help="where the runs go: a process for each on this machine, this process, or jobs of slurm (default: local)",
    )
    parser.add_argument("--jobs", type=count, default=1, help="runs at once (default: 1)")
    parser.add_argument(
        "--cluster_options",
        nargs="+",
        type=_parameter,
        default=[],
        metavar="NAME=VALUE",
        help="parameters of submitit's executor, such as slurm_partition=gpu, mem_gb=32 or timeout_min=600",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="list the runs, their states and an estimate of the time"
    )
    arguments = parser.parse_args(argv)

    from ..experiments.grid import read_grid

    grid = read_grid(arguments.grid, check_train_option, arguments.imagenet)

    from ..experiments.sweep import sweep

    options = {name: value for name, value in vars(arguments).items() if name not in ("grid", "imagenet")}
    lines = sweep(grid, **options | {"cluster_options": dict(arguments.cluster_options)})
    print(lines)
    if failed := sum(": failed: " in line for line in lines.splitlines()):
        raise ValueError(f"{failed} of {len(grid.points)} runs have failed, see above and their `error.json`.")


def _parameter(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, but got `{text}`")
    return name, yaml.safe_load(value)
