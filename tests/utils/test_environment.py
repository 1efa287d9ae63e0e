"""Which code a result is of."""

import runpy
import shutil
import subprocess
from pathlib import Path

from robust_vit_hf.utils import environment


def test_results_do_not_make_code_dirty_and_edits_do(tmp_path):
    """A result that is written between two trainings leaves the commit of the second as it is."""

    def git(*words: str) -> str:
        command = ["git", "-C", tmp_path, "-c", "user.name=A", "-c", "user.email=a@b", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    code, results = tmp_path / "package" / "utils" / "environment.py", tmp_path / "results.json"
    code.parent.mkdir(parents=True)
    shutil.copy(Path(environment.__file__), code)
    results.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "--message", "Begin")
    results.write_text("2")
    assert runpy.run_path(str(code))["loaded_commit"]() == git("rev-parse", "HEAD")
    code.write_text(code.read_text() + "\n")
    assert runpy.run_path(str(code))["loaded_commit"]() == git("rev-parse", "HEAD") + "-dirty"
