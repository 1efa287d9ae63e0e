"""Would the tests notice? The small faults of mutations.tsv are put into the code one by one, and the tests of the part are run.

    python -m experiments mutations --jobs 2                # an hour on two cores; writes experiments/benchmarks/mutations.json
    python -m experiments mutations --only sweep.py

The columns of mutations.tsv: a file, text that is there once, what stands in its place, and names of test files. A fault is caught if a test
fails, or if the tests do not end within the time limit. Without faults all must pass: run `make test test-slow` before. All runs in worktrees
of the last commit, which are deleted. Faults that no test catches are printed: they need a test, or are equivalent.
"""

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tqdm import tqdm

from ..scripts import script_parser


ROOT, FAULTS = Path(__file__).parents[2], Path(__file__).with_suffix(".tsv")
LIMIT = 900  # seconds of the tests of a fault


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="faults at once, each in a process of one thread")
    parser.add_argument("--only", default="", help="part of a file's name")
    options = parser.parse_args()
    with FAULTS.open(newline="", encoding="utf-8") as file:
        faults = [*csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    faults = [fault for fault in faults if options.only in fault["file"]]
    for fault in faults:
        if (count := (ROOT / fault["file"]).read_text().count(fault["old"])) != 1:
            raise ValueError(
                f"`{fault['file']}` has `{fault['old']}` {count} times, expected once: edit {FAULTS.name}."
            )
    head, trees = git("rev-parse", "HEAD"), SimpleQueue()
    with TemporaryDirectory() as folder:
        for number in range(options.jobs):
            git("worktree", "add", "--detach", f"{folder}/{number}", head)
            trees.put(Path(folder, str(number)))
        try:
            with ThreadPoolExecutor(options.jobs) as pool:
                outcomes = pool.map(lambda fault: outcome(fault, trees), faults)
                found = [*tqdm(outcomes, total=len(faults), desc="faults")]
        finally:
            for number in range(options.jobs):
                git("worktree", "remove", "--force", f"{folder}/{number}")
    missed, endless = (
        [fault for fault, of in zip(faults, found, strict=True) if of == kind] for kind in ("missed", "endless")
    )
    print(f"{len(faults) - len(missed)} of {len(faults)} faults are caught, {len(endless)} of them by the time limit.")
    if not options.only:
        record = {"commit": head, "faults": len(faults), "missed": missed, "endless": endless}
        FAULTS.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


def outcome(fault: dict[str, str], trees: SimpleQueue) -> str:
    """Put in a fault, run its tests, and take it out again: `caught`, `missed` or `endless`."""
    tree = trees.get()
    path = tree / fault["file"]
    text = path.read_text()
    tests = [str(path) for name in fault["tests"].split() for path in Path("tests").rglob(f"test_{name}.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not release", *tests]
    try:
        path.write_text(text.replace(fault["old"], fault["new"]))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "endless"
    finally:
        path.write_text(text)
        trees.put(tree)
    if done.returncode not in (0, 1, 2):  # 2: an error in the collection, as of a file that cannot be imported
        raise RuntimeError(f"{fault}: {done.stdout.decode()[-2000:]}")
    found = "caught" if done.returncode else "missed"
    tqdm.write(f"{found}: {fault['file']}: {fault['old']} -> {fault['new']}")
    return found


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
