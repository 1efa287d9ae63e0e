"""Options of `robust-vit report`."""

from pathlib import Path

from .parser import Parser, add_output_dir


DESCRIPTION = """Make the paper's tables and figures from the runs of a sweep, and check its findings.

  robust-vit report runs/emoji-shift-grid --output_dir runs/report
  robust-vit report runs/table1 runs/table4 --output_dir runs/report
  robust-vit report runs/report/results.parquet --output_dir runs/report
  robust-vit report runs/robustness --html --output_dir runs/report

With --html, the report is also one HTML file for any browser, with sortable changes by class and a gallery of relevance maps; it can
be that of one `robust-vit train` or `evaluate` as well.

Of several learning rates of a method, the highest is shown that keeps top-1 on the validation images (see docs/experiments.md)."""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit report", description=DESCRIPTION)
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        help="folders of sweeps or of their runs, or a results.parquet; with --html, also one output folder of `robust-vit train` "
        "or `evaluate`",
    )
    parser.add_argument("--html", action="store_true", help="write report.html, one file that loads nothing")
    add_output_dir(parser)
    arguments = parser.parse_args(argv)

    from ..experiments.report import report

    if tables := report(**vars(arguments)):
        print(f"\n{tables}\nreport.md, report.tex, figures and the results: {arguments.output_dir}")
    if arguments.html:
        print(f"Open {arguments.output_dir / 'report.html'} in a browser.")
