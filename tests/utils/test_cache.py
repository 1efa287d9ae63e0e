"""The cache: complete entries or none, whatever is killed, and none from other code."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import robust_vit_hf
from robust_vit_hf.data import background_edits
from robust_vit_hf.utils.cache import Cache, code_digest

from ..helpers.commands import launch, launch_two


ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)
# Begins, writes 4 rows of the array and one file of the folder, and waits to be killed.
WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from robust_vit_hf.utils.cache import Cache

def batches(first):
    yield np.arange(12).reshape(4, 3)
    wait()

def wait():
    print("waiting", flush=True)
    time.sleep(60)

def make(folder):
    (folder / "first.txt").write_text("1")
    wait()

cache = Cache(Path(sys.argv[1], "cache"))
with cache.lock():
    cache.arrays("features", (10, 3), batches) if sys.argv[2] == "arrays" else cache.folder("weights", make)
"""
TOGETHER = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from accelerate import PartialState
from robust_vit_hf.utils.cache import Cache

rank, cache = PartialState(cpu=True).process_index, Cache(Path(sys.argv[1]))
for _ in range(2):
    with cache.lock():
        assert cache.table("rows", lambda: pd.DataFrame({"x": [1, 2]})).x.tolist() == [1, 2]
        array = cache.arrays("features", (2, 2), lambda first: iter([np.eye(2)]))
        assert array.tolist() == [[1, 0], [0, 1]]
        folder = cache.folder("made", lambda folder: (folder / f"{rank}.txt").touch())
        assert (folder / "0.txt").exists()
print("done", flush=True)
import os; os._exit(0)
"""


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "out" / "cache")


def killed(folder: Path, kind: str) -> None:
    """Kill a process that writes to the cache, while this one finds it locked."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, folder, kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "waiting\n"
    with pytest.raises(BlockingIOError, match=f"{folder}` is in use by process {process.pid} on"):
        with Cache(folder / "cache").lock():
            pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)


def test_entries_differ_by_inputs_version_and_code(cache, tmp_path, monkeypatch):
    first = cache.entry("rows.v1", model="abc", options={"rate": 0.1, "steps": (1, 2)})
    assert first == cache.entry("rows.v1", options={"steps": [1, 2], "rate": 0.1}, model="abc")
    assert first.parent == cache.root and first.name.startswith("rows.v1-")
    entries = {first, cache.entry("rows.v1", model="abc", options={"rate": 0.2, "steps": [1, 2]})}
    monkeypatch.setattr(robust_vit_hf, "__version__", "99.0")
    assert len(entries | {cache.entry("rows.v1", model="abc", options={"rate": 0.1, "steps": [1, 2]})}) == 3
    with pytest.raises(TypeError):
        cache.entry("rows", model=object())


def test_another_source_file_is_another_entry(tmp_path):
    package = tmp_path / "robust_vit_hf"
    shutil.copytree(Path(robust_vit_hf.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    show = "from pathlib import Path; from robust_vit_hf.utils.cache import Cache; print(Cache(Path('x')).entry('y'))"
    names = []
    for _ in range(2):
        names.append(subprocess.check_output([sys.executable, "-c", show], cwd=tmp_path))  # imports the copy
        edits = package / "data" / "background_edits.py"
        edits.write_text(edits.read_text().replace("REBLUR = 1.0", "REBLUR = 1.1"))
    assert names[0] != names[1]


def test_functions_replaced_in_memory_are_other_code(monkeypatch):
    digests = {code_digest(background_edits)}
    monkeypatch.setattr(background_edits, "REBLUR", 2.0)
    digests.add(code_digest(background_edits))
    for value in (0.5, 0.25):
        monkeypatch.setattr(background_edits, "fill", lambda pixels, known, value=value: pixels * 0 + value)
        digests.add(code_digest(background_edits))
    assert len(digests) == 4
    monkeypatch.undo()
    show = "from robust_vit_hf.utils.cache import *; from robust_vit_hf.data import background_edits as edits; "
    assert launch("-c", show + "print(code_digest(edits))").out.strip() == code_digest(background_edits)


def test_a_table_is_computed_once(cache):
    calls = []

    def compute() -> pd.DataFrame:
        calls.append(1)
        return pd.DataFrame({"image": ["a", "b"], "label": [1, 2], "accepted": [[1], [2, 3]]})

    tables = [cache.table("rows", compute, model="abc") for _ in range(2)]
    (file,) = cache.root.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    tables.append(cache.table("rows", compute, model="abc"))
    assert len(calls) == 2  # once more for the damaged file
    for table in tables:
        assert table.label.tolist() == [1, 2] and [of.tolist() for of in table.accepted] == [[1], [2, 3]]


def test_a_killed_array_goes_on(cache):
    killed(cache.root.parent, "arrays")
    (partial,) = cache.root.glob("*.partial")
    partial.write_bytes(partial.read_bytes() + b"half")  # of a row
    begun = []

    def batches(first: int):
        begun.append(first)
        yield from np.array_split(ROWS[first:], 2)

    with cache.lock():
        array = cache.arrays("features", ROWS.shape, batches)
        array += 0  # changes stay in memory
        array[0] = 7
        again = cache.arrays("features", ROWS.shape, batches)
    np.testing.assert_array_equal(again, ROWS)
    assert begun == [4]


def test_a_killed_folder_goes_on(cache):
    killed(cache.root.parent, "folder")
    found = []

    def make(folder: Path) -> None:
        found.extend(path.name for path in folder.iterdir())
        (folder / "second.txt").touch()

    folders = {cache.folder("weights", make) for _ in range(2)}
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["first.txt", "second.txt"]]
    assert found == ["first.txt"]


def test_the_lock_leaves_no_empty_folders(cache):
    with cache.lock(), cache.lock():
        assert cache.root.is_dir()
    assert not cache.root.parent.exists()
    with cache.lock():
        cache.table("rows", lambda: pd.DataFrame({"x": [1]}))
    assert (cache.root / ".lock").read_text() == ""  # names no machine


@pytest.mark.slow
def test_processes_share_a_cache(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    completed = launch_two(script, tmp_path / "cache")
    assert completed.out.count("done") == 2, completed.err
