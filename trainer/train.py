"""Finetune a model: `accelerate launch trainer/train.py …` is `robust-vit train …`."""

import sys

from robust_vit_hf.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
