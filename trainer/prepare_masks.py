"""Make foreground masks: `accelerate launch trainer/prepare_masks.py …` is `robust-vit masks …` on several processes."""

import sys

from robust_vit_hf.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["masks", *sys.argv[1:]]))
