"""Packages import one way, and scripts import what there is."""

import ast
from collections import defaultdict
from graphlib import TopologicalSorter

import pytest

from .helpers.tiny import ROOT


# Each package may import those before it.
ORDER = """utils data relevance models masks metrics results evaluation hub training finetuning diagnosis improvement
    app cli""".split()


def imports() -> dict[str, set[str]]:
    """Modules of the package by name, and the modules of it that each imports, within functions and for types too."""
    package = ROOT / "robust_vit_hf"
    found = defaultdict(set)
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = (*parts[: len(parts) - node.level], *(node.module or "").split("."))
                base = [part for part in base if part]
                for name in node.names:
                    module = [*base, name.name] if (package.joinpath(*base, f"{name.name}.py")).is_file() else base
                    found[".".join(parts)].add(".".join(module))
            elif isinstance(node, ast.Constant) and str(node.value).startswith("robust_vit_hf."):  # imported by name
                found[".".join(parts)].add(node.value.removeprefix("robust_vit_hf."))
    return found


def test_imports_run_one_way():
    for module, imported in imports().items():
        package = module.partition(".")[0]
        if package in ORDER:
            others = {other.partition(".")[0] for other in imported} - {package, ""}
            assert all(ORDER.index(other) < ORDER.index(package) for other in others), (module, others)


@pytest.mark.parametrize("folder", ["eval", "experiments", "trainer"])
def test_scripts_import_what_there_is(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robust_vit_hf"):
                exec(compile(ast.Module([node], []), path.name, "exec"), {})


def test_no_circle_of_modules():
    graph = {module: imported - {module, ""} for module, imported in imports().items()}
    TopologicalSorter(graph).prepare()  # raises a CycleError
