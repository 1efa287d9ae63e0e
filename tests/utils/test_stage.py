"""Stages: complete or not, made from these inputs or from others, whatever is killed."""

import signal
import subprocess
import sys
import time

import pytest

from robust_vit_hf.utils.stage import STAGE_FILE, OtherInputs, Stage


INPUTS = {"model": "abc", "settings": {"rate": 0.1, "steps": (1, 2)}}
WRITER = """
import sys, time
from pathlib import Path
from robust_vit_hf.utils.stage import Stage
stage = Stage(Path(sys.argv[1]), {"model": "abc"})
with stage.lock():
    stage.begin()
    (stage.folder / "part.txt").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_stage_is_complete_when_it_is_finished(tmp_path):
    stage = Stage(tmp_path / "a" / "b", INPUTS)
    assert stage.result() is None and not stage.folder.exists()
    stage.begin()
    assert stage.result() is None
    (stage.folder / "rows.txt").write_text("rows")
    stage.finish({"top1": 0.5}, files=["rows.txt"])
    assert Stage(stage.folder, INPUTS).result() == {"top1": 0.5}
    (stage.folder / "rows.txt").unlink()
    assert stage.result() is None  # a file of it is missing


@pytest.mark.parametrize("finished", [False, True])
def test_other_inputs_are_refused_and_named(tmp_path, finished):
    stage = Stage(tmp_path, INPUTS)
    stage.begin()
    if finished:
        stage.finish({})
    other = Stage(tmp_path, {"settings": {"rate": 0.2, "steps": [1, 2]}, "seed": 1})
    for call in (other.result, other.begin):
        with pytest.raises(OtherInputs, match=r"differ in: model, settings\.rate, seed"):
            call()
    assert other.result(ignoring=("model", "settings", "seed")) == ({} if finished else None)


def test_files_without_a_record_are_refused(tmp_path):
    (tmp_path / ".hidden").touch()
    (tmp_path / "rows.parquet.0a.partial").touch()
    Stage(tmp_path, INPUTS).check()
    (tmp_path / "fingerprint.json").write_text("{}")  # of an earlier version
    with pytest.raises(ValueError, match="earlier version"):
        Stage(tmp_path, INPUTS).begin()
    (tmp_path / STAGE_FILE).write_text('{"inputs": ')
    with pytest.raises(ValueError, match="is not a JSON object"):
        Stage(tmp_path, INPUTS).result()


def test_a_killed_stage_is_locked_until_then_and_begins_again(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    stage = Stage(tmp_path, {"model": "abc"})
    with pytest.raises(BlockingIOError, match=str(process.pid)), stage.lock():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    with stage.lock():
        assert stage.result() is None and (tmp_path / "part.txt").read_text() == "half"
        stage.begin()
        stage.finish({"done": True})
    assert stage.result() == {"done": True}
