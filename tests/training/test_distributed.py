"""Two processes (gloo) give the losses and weights of one, on the same global batch, and a fault of one ends both."""

import json
from pathlib import Path

import pytest
from transformers import ViTForImageClassification

from ..evaluation.test_evaluation import MAPS
from ..helpers.commands import Completed, launch_two
from ..helpers.distributed import run
from .test_trainer import COMPONENTS, assert_equal_weights


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, Completed]:
    """Folder and output of the trainings in two processes."""
    folder = tmp_path_factory.mktemp("two")
    return folder, launch_two("--module", "tests.helpers.distributed", folder, timeout=600)


@pytest.mark.slow
def test_a_fault_of_one_process_ends_both(two):
    for rank in (0, 1):
        assert f"error of process {rank}: NaN or infinite for an image" in two[1].out, two[1].err[-3000:]


@pytest.mark.slow
def test_two_processes_equal_one(two, tmp_path):
    folder, completed = two
    assert completed.status == 0, completed.err
    run(tmp_path, 8)
    one, two = (json.loads((place / "summary.json").read_text()) for place in (tmp_path, folder))
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert len(one["log"]) == len(two["log"])
    for ours, expected in zip(two["log"], one["log"], strict=True):
        names = [f"{prefix}{name}" for prefix in ("", "eval_") for name in (*COMPONENTS, "loss")]
        for name in [name for name in names if name in expected]:
            assert ours[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
    for name, losses in one["losses"].items():
        assert len(losses) == 4 and two["losses"][name] == pytest.approx(losses, rel=1e-3), name
    models = [ViTForImageClassification.from_pretrained(place) for place in (folder, tmp_path)]
    assert_equal_weights(*models, atol=1e-5, rtol=1e-4)
    for name in ("predictions", "accepted"):
        assert two[name] == one[name], name
    assert len(two["predictions"]) == 7
    # Weights, and with them maps and probabilities, agree to 1e-5, counts of pixels and images altogether.
    assert two["scores"].keys() == one["scores"].keys() >= {"top1", "ece", "mean_iou"}
    for name, value in one["scores"].items():
        expected = value if isinstance(value, dict) else pytest.approx(value, abs=5e-3 if name in MAPS else 1e-4)
        assert two["scores"][name] == expected, name
