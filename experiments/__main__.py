"""`python -m experiments NAME …`: everything that reproduces the paper or measures this project, from the root of a checkout."""

import ast
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

from robust_vit_hf.cli.commands import Command, Group
from robust_vit_hf.cli.main import main as run_command


PROGRAM = "python -m experiments"
COMMANDS = {
    "sweep": Command("experiments.sweeps.options:SweepOptions", "experiments.sweeps.sweep:sweep"),
    "report": Command("experiments.sweeps.options:ReportOptions", "experiments.sweeps.report:report"),
    "published": Command("experiments.paper.options:PublishedOptions", "experiments.paper.one_run:published"),
    "figures": Command("experiments.paper.options:FigureOptions", "experiments.paper.example_figures:make_figures"),
    "sis": Command("experiments.paper.options:SubsetOptions", "experiments.paper.sis:find_subsets"),
}


@dataclass(frozen=True)
class Script:
    """A module that parses its arguments itself."""

    path: Path

    @property
    def module(self) -> str:
        return ".".join(self.path.relative_to(Path(__file__).parents[1]).with_suffix("").parts)

    @property
    def summary(self) -> str:
        text = ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))).partition("\n\n")[0]
        return " ".join(text.split()).rstrip(".")


def scripts() -> dict[str, Script]:
    """Scripts by name; modules that only others import have no main program."""
    folder = Path(__file__).parent
    files = [*folder.glob("write_*.py"), *folder.glob("benchmarks/*.py"), *folder.glob("makers/*.py")]
    return {
        file.stem: Script(file)
        for file in sorted(files)
        if '__name__ == "__main__"' in file.read_text(encoding="utf-8")
    }


def main(argv: list[str] | None = None) -> int:
    """Run an experiment by its name; returns the exit status."""
    argv, known = list(sys.argv[1:] if argv is None else argv), scripts()
    if argv and argv[0] in known:
        from robust_vit_hf.utils.processes import begin_command  # which imports torch

        begin_command()
        sys.argv = [f"{PROGRAM} {argv[0]}", *argv[1:]]
        runpy.run_module(known[argv[0]].module, run_name="__main__", alter_sys=False)
        return 0
    return run_command(argv, Group("Reproduce the paper, and measure this project", COMMANDS | known), PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
