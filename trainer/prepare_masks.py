"""Make foreground masks: `python trainer/prepare_masks.py …` is `robust-vit masks …`."""

import sys

from robust_vit_hf.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["masks", *sys.argv[1:]]))
