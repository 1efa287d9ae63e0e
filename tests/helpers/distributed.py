"""Trainings that `test_distributed.py` launches in two processes: a short one with an evaluation, and one with a fault in the second
process.

torchrun --nproc_per_node 2 --module tests.helpers.distributed FOLDER
"""

import json
import math
import os
import sys
from pathlib import Path

from robust_vit_hf import RobustViTTrainer, make_image_processor
from robust_vit_hf.evaluation.accuracy import measure_accuracy
from robust_vit_hf.evaluation.sets import EvaluationSet

from .sessions import session_of
from .tiny import IMAGE_SIZE, STILL, masked_dataset, tensor_rows, tiny_config, tiny_vit


# Methods beside the paper's, with terms of one size.
METHODS = {
    "cft": {},
    "energy": {},
    "finetune": {},
    "swap": {},
    "gradmask": {"background_weight": 1.0, "confidence_weight": 1.0},
    "rrr": {"background_weight": 0.01, "confidence_weight": 1.0},
}


def run(folder: Path, batch_size: int) -> None:
    """Train, evaluate, and write `summary.json` into the folder."""
    config = tiny_config(
        folder,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        eval_strategy="epoch",
    )
    # 5 validation images: with two processes the last batch is filled up, and must not be counted twice.
    trainer = RobustViTTrainer(tiny_vit(**STILL), config, tensor_rows(16), tensor_rows(5, seed=1))
    trainer.train()
    trainer.save_model()
    sets = {"noise": EvaluationSet.of(masked_dataset(7, seed=2))}
    processor = make_image_processor("paper", IMAGE_SIZE)
    session = session_of(
        {"before": trainer.model}, sets, processor=processor, accelerator=trainer.accelerator, passes=(2, 0)
    )
    images = measure_accuracy(session)["noise"]
    result = images.sides["before"]
    if trainer.accelerator.is_main_process:
        summary = {
            "num_processes": trainer.accelerator.num_processes,
            "log": trainer.state.log_history,
            "predictions": result.predictions.tolist(),
            "accepted": [[label] for label in images.classes.tolist()],
            "scores": result.scores,
        }
    losses = {}
    for name, options in METHODS.items():
        config = tiny_config(folder / name, method=name, per_device_train_batch_size=batch_size, **options)
        trainer = RobustViTTrainer(tiny_vit(**STILL), config, tensor_rows(16))
        trainer.train()
        losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if trainer.accelerator.is_main_process:
        summary["losses"] = losses
        (folder / "summary.json").write_text(json.dumps(summary))


def run_with_fault(folder: Path) -> None:
    """Train on images of which those of the second process are NaN, and write the error of this process to stdout."""
    rows = tensor_rows(16)
    if os.environ["RANK"] == "1":
        rows = [row | {"pixel_values": row["pixel_values"] * math.nan} for row in rows]
    try:
        RobustViTTrainer(tiny_vit(), tiny_config(folder, per_device_train_batch_size=4), rows).train()
    except ValueError as error:
        sys.stdout.write(f"error of process {os.environ['RANK']}: {error}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run(Path(sys.argv[1]), 4)
    run_with_fault(Path(sys.argv[1], "nan"))
    os._exit(0)  # as `robust-vit train` does: taking down a gloo group sometimes aborts or hangs
