"""Measure how well relevance maps cover the object, before and after finetuning and by several rules: the paper's Table 3.

    python eval/evaluate_segmentation.py --compare runs/emoji-shift           # the bundled model and images by default
    accelerate launch eval/evaluate_segmentation.py --model google/vit-base-patch16-224 --compare runs/vit-base \\
        --set imagenet-segmentation=gtsegs_ijcv.mat --output_dir runs/vit-base-segmentation

Images are squashed to the model's size, maps explain the predicted class and are thresholded at their mean. A model that
is finished is kept: a run that was cut off goes on when it is started again.
"""

import argparse
import json
from pathlib import Path

import datasets

from robust_vit_hf import load_image_set, load_masked_dataset
from robust_vit_hf.data import check_columns, image_sets
from robust_vit_hf.emoji_shift import load_evaluation_sets
from robust_vit_hf.emoji_shift.artwork import OPEN_VENDORS
from robust_vit_hf.evaluation.kept import check_made_by, write_made_by
from robust_vit_hf.evaluation.published import find_published, published_models
from robust_vit_hf.evaluation.segment import segment_set
from robust_vit_hf.evaluation.tables import segmentation_table
from robust_vit_hf.figures import save_rules_figure
from robust_vit_hf.files import write_atomically
from robust_vit_hf.launch import leave, make_accelerator
from robust_vit_hf.models import EMOJI_SHIFT, ZOO, load_model, load_processor, weights_digest
from robust_vit_hf.report import environment
from robust_vit_hf.rules import RULES


METRICS = Path(__file__).parent


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    masked = [name for name, image_set in image_sets().items() if "mask" in image_set.features]
    parser.add_argument("--model", default=EMOJI_SHIFT, help="folder or Hub id; the bundled model by default")
    parser.add_argument("--compare", help="folder or Hub id of the model after finetuning")
    parser.add_argument(
        "--set",
        metavar="NAME[=PATH_OR_ID]",
        help=f"`{EMOJI_SHIFT}` (the default), or {', '.join(masked)}, from a place that `python -m robust_vit_hf.data prepare` "
        "takes or from what it wrote",
    )
    parser.add_argument("--dataset", help="images with masks of your own, as for trainer/train.py")
    parser.add_argument("--split", default="validation", help="split of --dataset")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES), help="relevance rules")
    parser.add_argument(
        "--preset", choices=["paper", "native"], default="paper", help="statistics that images are normalised with"
    )
    parser.add_argument(
        "--paper_model",
        choices=list(published_models()),
        help="which of the paper's models --model is; by default known from its Hub id",
    )
    parser.add_argument("--images_per_set", type=int, default=100, help=f"{EMOJI_SHIFT}: images of each of the 7 sets")
    parser.add_argument("--batch_size", type=int, default=32, help="images that a process takes at once")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read images, of each process")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/segmentation"))
    arguments = parser.parse_args()
    if arguments.set and arguments.dataset:
        parser.error("give one set: --set or --dataset")
    if not arguments.dataset:
        arguments.set = arguments.set or EMOJI_SHIFT
        name = arguments.set.partition("=")[0]
        if name not in (EMOJI_SHIFT, *masked):
            parser.error(
                f"unknown set `{name}`, or one without masks: expected {', '.join((EMOJI_SHIFT, *masked))}. For your own, "
                "give --dataset."
            )
    return arguments


def load_set(arguments: argparse.Namespace) -> tuple[str, datasets.Dataset]:
    """Name of the set, and its rows."""
    if arguments.dataset:
        dataset = load_masked_dataset(arguments.dataset, arguments.split)
        check_columns(dataset, arguments.split, needs_labels=False)
        return arguments.split, dataset
    name, _, source = arguments.set.partition("=")
    if name == EMOJI_SHIFT:
        return name, datasets.concatenate_datasets(list(load_evaluation_sets(arguments.images_per_set).values()))
    return name, load_image_set(name, source or None)


def main() -> None:
    arguments = parse_arguments()
    accelerator = make_accelerator(arguments.bf16)
    with accelerator.main_process_first():
        set_name, dataset = load_set(arguments)
    names = {"before": arguments.model} | ({"after": arguments.compare} if arguments.compare else {})
    models = {side: load_model(name).to(accelerator.device) for side, name in names.items()}
    processors = {side: load_processor(name, arguments.preset, models[side]) for side, name in names.items()}

    scores = {}
    for side, name in names.items():
        folder = arguments.output_dir / set_name / side
        made_by = {
            "model": name,
            "weights": weights_digest(models[side]),
            "source": arguments.dataset or arguments.set,
            "images": len(dataset),
            "rules": arguments.rules,
            "processor": json.loads(processors[side].to_json_string()),
            "bf16": arguments.bf16,
        }
        check_made_by(folder, made_by)
        path = folder / "scores.json"
        finished = path.is_file()
        accelerator.wait_for_everyone()  # until all have looked, before one writes
        if finished:
            scores[side] = json.loads(path.read_text())
            continue
        scores[side] = segment_set(
            models[side],
            dataset,
            processors[side],
            accelerator,
            METRICS,
            arguments.rules,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            description=f"{set_name}, {side}",
        )
        if accelerator.is_main_process:
            write_made_by(folder, made_by)
            write_atomically(path, json.dumps(scores[side], indent=2) + "\n")

    if accelerator.is_main_process:
        paper_model = arguments.paper_model or find_published(ZOO.get(arguments.model, arguments.model))
        # The paper's figures are those of its own statistics.
        shown_model = paper_model if arguments.preset == "paper" else None
        table = segmentation_table(scores, set_name, len(dataset), shown_model)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
        summary = {"settings": settings, "paper_model": paper_model, **environment(), "scores": {set_name: scores}}
        write_atomically(arguments.output_dir / "results.json", json.dumps(summary, indent=2) + "\n")
        write_atomically(arguments.output_dir / "table.md", f"{table.title}:\n\n{table.markdown()}\n")
        write_atomically(arguments.output_dir / "table.tex", table.latex())
        shown = dataset
        if set_name == EMOJI_SHIFT:  # figures show openly licensed artwork alone
            shown = dataset.filter(lambda vendor: vendor in OPEN_VENDORS, input_columns="vendor")
        count = min(8, len(shown))
        if count:
            examples = shown.select([index * len(shown) // count for index in range(count)])
            save_rules_figure(models, processors, examples, arguments.rules, arguments.output_dir / "rules.png")
        print(f"\n{table.title}:\n\n{table.markdown()}\n\nresults.json, table, rules.png: {arguments.output_dir}")
    leave(accelerator.device, accelerator.num_processes)


if __name__ == "__main__":
    main()
