"""Compare a finetuned model with its original on evaluation sets: top-1, and the mean IoU of relevance maps and masks.

    python eval/evaluate_sets.py --after runs/emoji-shift                     # the whole sets of emoji-shift
    python eval/evaluate_sets.py --before google/vit-base-patch16-224 --after runs/vit-base --dataset PATH_OR_ID

Both models are given the preprocessing that the finetuned one was saved with. `accelerate launch` spreads the images
over processes.
"""

import argparse

import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from robust_vit_hf import load_masked_dataset
from robust_vit_hf.data import check_columns, check_rows
from robust_vit_hf.evaluation import Comparison, evaluate_sets


EMOJI_SHIFT = "emoji-shift"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--after", required=True, help="folder or Hub id of the finetuned model")
    parser.add_argument("--before", default=EMOJI_SHIFT, help="its original; the bundled model by default")
    parser.add_argument(
        "--dataset", default=EMOJI_SHIFT, help="images with masks (see trainer/train.py), or `emoji-shift`"
    )
    parser.add_argument("--split", default="validation", help="split of the dataset")
    parser.add_argument("--images_per_set", type=int, default=2000, help="emoji-shift: images of each set")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()
    if arguments.before == EMOJI_SHIFT and arguments.dataset != EMOJI_SHIFT:
        parser.error("name the original model with --before")

    shifted = []
    if arguments.dataset == EMOJI_SHIFT:
        from robust_vit_hf.emoji_shift import SHIFTED, load_evaluation_sets

        sets, shifted = load_evaluation_sets(arguments.images_per_set), SHIFTED
    else:
        dataset = load_masked_dataset(arguments.dataset, arguments.split)
        check_columns(dataset, arguments.split, needs_labels=True)
        num_labels = AutoConfig.from_pretrained(arguments.after).num_labels
        sets = {arguments.split: check_rows(dataset, arguments.split, num_labels)}

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    processor = AutoImageProcessor.from_pretrained(arguments.after)
    results = {}
    for side in ("before", "after"):
        name = getattr(arguments, side)
        if name == EMOJI_SHIFT:
            from robust_vit_hf.emoji_shift import load_biased_model

            model = load_biased_model()
        else:
            model = AutoModelForImageClassification.from_pretrained(name)
        results[side] = evaluate_sets(
            model.to(accelerator.device),
            sets,
            processor,
            accelerator,
            batch_size=arguments.batch_size,
            description=side,
        )
    if accelerator.is_main_process:
        print(Comparison(results["before"], results["after"], shifted=shifted).markdown())


if __name__ == "__main__":
    main()
