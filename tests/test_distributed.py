"""Two processes (gloo) give the losses and weights of one, on the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import ViTForImageClassification

from .test_evaluation import MAPS
from .test_trainer import COMPONENTS, assert_equal_weights


def launch(folder: Path, num_processes: int, batch_size: int) -> dict:
    # `accelerate launch --cpu --num_processes 2` starts one process where MPI is not installed, so torchrun starts them.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", num_processes]
    completed = subprocess.run(
        list(map(str, [*command, "--module", "tests.launch", folder, batch_size])),
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads((folder / "summary.json").read_text())


def test_two_processes_equal_one(tmp_path):
    one, two = (launch(tmp_path / str(n), n, batch_size) for n, batch_size in ((1, 8), (2, 4)))
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert len(one["log"]) == len(two["log"])
    for ours, expected in zip(two["log"], one["log"], strict=True):
        names = [f"{prefix}{name}" for prefix in ("", "eval_") for name in (*COMPONENTS, "loss")]
        for name in [name for name in names if name in expected]:
            assert ours[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
    models = [ViTForImageClassification.from_pretrained(tmp_path / str(n)) for n in (2, 1)]
    assert_equal_weights(*models, atol=1e-5, rtol=1e-4)
    for name in ("predictions", "accepted"):
        assert two[name] == one[name], name
    assert len(two["predictions"]) == 7
    # Weights, and with them maps and probabilities, agree to 1e-5, counts of pixels and images altogether.
    assert two["scores"].keys() == one["scores"].keys() >= {"top1", "ece", "mean_iou"}
    for name, value in one["scores"].items():
        expected = value if isinstance(value, dict) else pytest.approx(value, abs=5e-3 if name in MAPS else 1e-4)
        assert two["scores"][name] == expected, name
