"""Measure relevance maps against masks: `python eval/evaluate_segmentation.py …` is `robust-vit segment …`."""

import sys

from robust_vit_hf.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
