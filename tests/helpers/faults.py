"""A training with a fault in its second process, which `test_distributed.py` launches in two.

torchrun --nproc_per_node 2 --module tests.helpers.faults {nan,hang} FOLDER
"""

import os
import signal
import sys

from robust_vit_hf import RobustViTTrainer

from ..test_finite import spoil
from ..test_resume import SAVING, At
from .tiny import masked_dataset, tiny_config, tiny_vit


if __name__ == "__main__":
    fault, folder = sys.argv[1:]
    timeout = {"hang": 60, "nan": 1800}[fault]
    config = tiny_config(folder, per_device_train_batch_size=4, ddp_timeout=timeout, **SAVING)
    trainer = RobustViTTrainer(tiny_vit(), config, masked_dataset(16))
    if os.environ["RANK"] == "1" and fault == "nan":
        for row in range(16):  # whichever its batches have
            spoil(trainer, row)
    if os.environ["RANK"] == "1" and fault == "hang":
        trainer.add_callback(At(2, lambda: os.kill(os.getpid(), signal.SIGSTOP)))
    try:
        trainer.train()
    except (ValueError, OSError) as error:
        sys.stdout.write(f"error of process {os.environ['RANK']}: {error}\n")
        sys.stdout.flush()
        os._exit(1)
