"""A training with a fault in its second process, which `test_distributed.py` launches in two.

torchrun --nproc_per_node 2 --module tests.helpers.faults {nan,validation} FOLDER
"""

import os
import signal
import sys

from transformers import TrainerCallback

from robust_vit_hf import RobustViTTrainer

from ..training.test_not_finite import spoil
from ..training.test_resume import SAVING
from .tiny import masked_dataset, tiny_config, tiny_vit


class InValidation(TrainerCallback):
    """SIGTERM after a batch of a validation."""

    def on_prediction_step(self, args, state, control, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    fault, folder = sys.argv[1:]
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "per_device_eval_batch_size": 1}
    settings = settings if fault == "validation" else SAVING
    config = tiny_config(folder, per_device_train_batch_size=4, **settings)
    trainer = RobustViTTrainer(tiny_vit(), config, masked_dataset(16), masked_dataset(16, seed=9))
    if os.environ["RANK"] == "1" and fault == "nan":
        for row in range(16):  # whichever its batches have
            spoil(trainer, row)
    if os.environ["RANK"] == "1" and fault == "validation":
        trainer.add_callback(InValidation())
    try:
        trainer.train()
    except (ValueError, OSError, KeyboardInterrupt) as error:
        sys.stdout.write(f"error of process {os.environ['RANK']}: {error}\n")
        sys.stdout.flush()
        os._exit(1)
