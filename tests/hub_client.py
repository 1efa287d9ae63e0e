"""What the real client of the Hub does, in a process of its own since it reads its variables at import."""

import json
import subprocess
import sys
from os import environ
from pathlib import Path

from .hub import LoopbackHub


# What the code leaves in `result` is printed. `refused` is what a call that must fail raises, its status and its text.
PRELUDE = """
import json, sys
from pathlib import Path
import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download

api, folder, result = HfApi(), Path(sys.argv[1]), {}

def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        response = getattr(error, "response", None)
        return type(error).__name__, response and response.status_code, str(error)
    raise AssertionError("it was not refused")

"""


def start(hub: LoopbackHub, folder: Path, code: str, home: str, prelude: str = PRELUDE) -> subprocess.Popen:
    """Code under way, with a cache `home` inside the folder, which is its `folder`."""
    variables = environ | hub.environment() | {"HF_HOME": str(folder / home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", f"{prelude}{code}\nprint(json.dumps(result))", str(folder)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(hub: LoopbackHub, folder: Path, code: str, home: str = "home", prelude: str = PRELUDE) -> dict:
    """The `result` of the code."""
    process = start(hub, folder, code, home, prelude)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
