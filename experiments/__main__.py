"""`python -m experiments NAME …`: what reproduces the paper or measures this project, from the root of a checkout."""

import ast
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from robust_vit_hf.cli.commands import Command, Group
from robust_vit_hf.cli.main import main as run_command


PROGRAM = "python -m experiments"
COMMANDS = {
    "sweep": Command("experiments.sweeps.options:SweepOptions", "experiments.sweeps.sweep:sweep"),
    "report": Command("experiments.paper.options:ReportOptions", "experiments.paper.report:report"),
    "published": Command("experiments.paper.options:PublishedOptions", "experiments.paper.published_run:published"),
    "figures": Command("experiments.paper.options:FigureOptions", "experiments.paper.example_figures:make_figures"),
    "sis": Command("experiments.paper.options:SubsetOptions", "experiments.paper.sis:find_subsets"),
}
FOLDERS = ("benchmarks", "makers", "pages")  # of scripts, which are called by the names of their files


@dataclass(frozen=True)
class Script:
    """A module whose function `main` parses the arguments of the process itself."""

    path: Path

    @property
    def module(self) -> str:
        return ".".join(self.path.relative_to(Path(__file__).parents[1]).with_suffix("").parts)

    @property
    def summary(self) -> str:
        """First paragraph of the docstring, read without importing the module."""
        text = ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))).partition("\n\n")[0]
        return " ".join(text.split()).rstrip(".:")


def scripts() -> dict[str, Script]:
    """Scripts by name. Modules without `main` are only imported by scripts."""
    files = sorted(path for folder in FOLDERS for path in Path(__file__).parent.glob(f"{folder}/*.py"))
    return {path.stem: Script(path) for path in files if "\ndef main(" in path.read_text(encoding="utf-8")}


def main(argv: list[str] | None = None) -> int:
    """Run a command or script by its name; returns the exit status."""
    argv, known = list(sys.argv[1:] if argv is None else argv), scripts()
    if argv and argv[0] in known:
        from robust_vit_hf.utils.processes import begin_command  # which imports torch

        begin_command()
        sys.argv = [f"{PROGRAM} {argv[0]}", *argv[1:]]
        import_module(known[argv[0]].module).main()
        return 0
    return run_command(argv, Group("Reproduce the paper, and measure this project", COMMANDS | known), PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
