"""What `test_distributed.py` launches: a short finetuning and an evaluation, whose results the first process writes.

torchrun --nproc_per_node N --module tests.launch FOLDER BATCH_SIZE_OF_A_PROCESS
"""

import json
import os
import sys
from pathlib import Path

from robust_vit_hf import RobustViTTrainer, make_image_processor
from robust_vit_hf.evaluation import EvaluationSet, evaluate_sets

from .conftest import IMAGE_SIZE, masked_dataset, tensor_rows, tiny_config, tiny_vit


def main(folder: Path, batch_size: int) -> None:
    config = tiny_config(
        folder,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        eval_strategy="epoch",
    )
    # 5 validation images: with two processes the last batch is filled up, and must not be counted twice.
    trainer = RobustViTTrainer(tiny_vit(), config, tensor_rows(16), tensor_rows(5, seed=1))
    trainer.train()
    trainer.save_model()
    sets = {"noise": EvaluationSet.of(masked_dataset(7, seed=2))}
    processor = make_image_processor("paper", IMAGE_SIZE)
    metrics = Path(__file__).parents[1] / "eval"
    result = evaluate_sets(trainer.model, sets, processor, trainer.accelerator, metrics, batch_size=2)["noise"]
    if trainer.accelerator.is_main_process:
        summary = {
            "num_processes": trainer.accelerator.num_processes,
            "log": trainer.state.log_history,
            "predictions": result.predictions.tolist(),
            "accepted": result.accepted,
            "scores": result.scores,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    os._exit(0)  # as trainer/train.py does: taking down a gloo group now and then aborts or hangs


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
