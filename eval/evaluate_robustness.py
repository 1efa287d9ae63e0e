"""Measure models on shifted sets: `python eval/evaluate_robustness.py …` is `robust-vit evaluate …`."""

import sys

from robust_vit_hf.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
