"""Measure a model, or two (before and after finetuning), on shifted sets: the paper's Tables 1, 2, 10 and 11 and its class plots.

    python eval/evaluate_robustness.py --compare runs/emoji-shift             # the bundled model and sets by default
    accelerate launch eval/evaluate_robustness.py --model google/vit-base-patch16-224 --compare runs/vit-base \\
        --sets imagenet-1k=sets/imagenet-1k imagenet-a=sets/imagenet-a objectnet=sets/objectnet \\
        --training_data sets/paper-split --output_dir runs/vit-base-evaluation

Every set is measured under two protocols. `paper`: all classes are ranked, images are resized to 256 (bilinear), cropped to
224 and normalised by 0.5, the first label of an ObjectNet image counts. `standard`: the classes of the set are ranked,
images are resized to 248 (bicubic) and normalised as each model's processor does, any label counts, and ObjectNet's red
border is cut. Finished sets are kept: a run that was cut off goes on when it is started again.
"""

import argparse
import json
from pathlib import Path

from robust_vit_hf import load_masked_dataset
from robust_vit_hf.data import check_columns, image_sets
from robust_vit_hf.data.imagenet_classes import class_names
from robust_vit_hf.emoji_shift import CLASS_NAMES, SHIFTED, load_evaluation_sets
from robust_vit_hf.evaluation import (
    PRESETS,
    Comparison,
    EvaluationSet,
    SetResult,
    evaluate_sets,
    load_evaluation_set,
)
from robust_vit_hf.evaluation.kept import check_made_by, write_made_by
from robust_vit_hf.evaluation.plots import save_plots
from robust_vit_hf.evaluation.published import PAPER_SETS, find_published, published_models
from robust_vit_hf.evaluation.tables import calibration_table, class_group_table, main_table, paper_tables
from robust_vit_hf.files import write_atomically
from robust_vit_hf.launch import leave, make_accelerator
from robust_vit_hf.models import EMOJI_SHIFT, ZOO, load_model, load_processor, weights_digest
from robust_vit_hf.report import environment


METRICS = Path(__file__).parent


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default=EMOJI_SHIFT, help="folder or Hub id; the bundled model by default")
    parser.add_argument("--compare", help="folder or Hub id of the model after finetuning")
    parser.add_argument(
        "--sets",
        nargs="+",
        metavar="NAME[=PATH_OR_ID]",
        help=f"`{EMOJI_SHIFT}` (the default), or sets of the paper ({', '.join(PAPER_SETS)}), each from its place on the Hub "
        "or from what `python -m robust_vit_hf.data prepare` wrote",
    )
    parser.add_argument("--dataset", help="images of your own with the column `label`, and `mask` if there are any")
    parser.add_argument("--split", default="validation", help="split of --dataset")
    parser.add_argument("--protocols", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument(
        "--training_data", help="images that --compare was finetuned on, whose classes are told apart from the others"
    )
    parser.add_argument("--train_split", default="train", help="split of --training_data")
    parser.add_argument(
        "--paper_model",
        choices=list(published_models()),
        help="which of the paper's models --model is; by default known from its Hub id",
    )
    parser.add_argument("--images_per_set", type=int, default=200, help=f"{EMOJI_SHIFT}: images of each set")
    parser.add_argument("--batch_size", type=int, default=32, help="images that a process takes at once")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read images, of each process")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/robustness"))
    arguments = parser.parse_args()
    if arguments.sets is None:
        arguments.sets = [] if arguments.dataset else [EMOJI_SHIFT]
    names = [spec.partition("=")[0] for spec in arguments.sets]
    if len(set(names)) < len(names):
        parser.error(f"a set is named twice: {', '.join(names)}")
    for name in names:
        if name not in (*PAPER_SETS, EMOJI_SHIFT):
            hint = (
                "eval/evaluate_segmentation.py takes it." if name in image_sets() else "For your own, give --dataset."
            )
            parser.error(f"unknown set `{name}`: expected {', '.join((EMOJI_SHIFT, *PAPER_SETS))}. {hint}")
    if arguments.model == EMOJI_SHIFT and (arguments.sets != [EMOJI_SHIFT] or arguments.dataset):
        parser.error("the bundled model knows the classes of emoji-shift alone: name yours with --model")
    if arguments.training_data and not arguments.compare:
        parser.error("--training_data tells classes apart for the model after finetuning: name it with --compare")
    return arguments


def load_sets(arguments: argparse.Namespace, protocol: str) -> dict[str, tuple[str, EvaluationSet]]:
    """Where each set comes from, and the set, by name, in the order of the paper's tables."""
    sets, order = {}, list(PAPER_SETS)
    specs = [spec.partition("=") for spec in arguments.sets]
    for name, _, source in sorted(specs, key=lambda spec: order.index(spec[0]) if spec[0] in order else len(order)):
        if name == EMOJI_SHIFT:
            for split, dataset in load_evaluation_sets(arguments.images_per_set).items():
                sets[split] = (EMOJI_SHIFT, EvaluationSet.of(dataset, num_classes=len(CLASS_NAMES)))
        else:
            sets[name] = (source, load_evaluation_set(name, source or None, protocol))
    if arguments.dataset:
        dataset = load_masked_dataset(arguments.dataset, arguments.split)
        check_columns(dataset, arguments.split, needs_labels=True, needs_masks="mask" in dataset.column_names)
        names = getattr(dataset.features["label"], "names", None)
        if arguments.split in sets:
            raise ValueError(
                f"`{arguments.split}` is both a split of --dataset and one of --sets: measure one at a time."
            )
        sets[arguments.split] = (arguments.dataset, EvaluationSet.of(dataset, names and len(names)))
    return sets


def training_classes(arguments: argparse.Namespace) -> frozenset[int] | None:
    """Classes that the finetuning showed, if that is known."""
    if arguments.training_data:
        dataset = load_masked_dataset(arguments.training_data, arguments.train_split)
        check_columns(dataset, arguments.training_data, needs_labels=True)
        return frozenset(dataset.with_format(None).unique("label"))
    if arguments.sets == [EMOJI_SHIFT] and arguments.compare:
        return frozenset(range(len(CLASS_NAMES) // 2))  # those of `load_finetuning_splits`
    return None


def measure(arguments, models, processors, sets, accelerator, protocol: str) -> dict[str, dict[str, SetResult]]:
    """Results of each side and set under a protocol; those of an earlier run are taken from the folder."""
    results = {side: {} for side in models}
    for set_name, (source, rows) in sets.items():
        digest_of_rows = rows.digest()
        for side, (name, model, digest) in models.items():
            processor = processors[side]
            folder = arguments.output_dir / protocol / set_name / side
            made_by = {
                "model": name,
                "weights": digest,
                "source": source,
                "images": len(rows.dataset),
                "rows": digest_of_rows,
                "processor": json.loads(processor.to_json_string()),
                "bf16": arguments.bf16,
            }
            check_made_by(folder, made_by)
            result = SetResult.load(folder)
            accelerator.wait_for_everyone()  # until all have looked, before one writes
            if result is None:
                result = evaluate_sets(
                    model,
                    {set_name: rows},
                    processor,
                    accelerator,
                    METRICS,
                    batch_size=arguments.batch_size,
                    num_workers=arguments.num_workers,
                    description=f"{protocol}, {side}",
                )[set_name]
                if accelerator.is_main_process:
                    write_made_by(folder, made_by)
                    result.save(folder)
            results[side][set_name] = result
    return results


def main() -> None:
    arguments = parse_arguments()
    accelerator = make_accelerator(arguments.bf16)
    names = {"before": arguments.model} | ({"after": arguments.compare} if arguments.compare else {})
    models = {}
    for side, name in names.items():
        model = load_model(name).to(accelerator.device)
        models[side] = (name, model, weights_digest(model))
    num_labels = {side: model.config.num_labels for side, (_, model, _) in models.items()}
    if len(set(num_labels.values())) > 1:
        raise ValueError(
            f"The models have different numbers of classes, so that they cannot be compared: {num_labels}."
        )

    # All that can be refused is refused before the first set is measured.
    with accelerator.main_process_first():
        sets = {protocol: load_sets(arguments, protocol) for protocol in arguments.protocols}
    processors = {
        protocol: {side: load_processor(name, PRESETS[protocol], model) for side, (name, model, _) in models.items()}
        for protocol in arguments.protocols
    }
    for set_name, (_, rows) in (item for protocol in arguments.protocols for item in sets[protocol].items()):
        rows.check_model(set_name, num_labels["before"])

    shown = training_classes(arguments)
    paper_model = arguments.paper_model or find_published(ZOO.get(arguments.model, arguments.model))
    documents = {"md": [], "tex": []}
    summary = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    }
    summary |= {"weights": {side: digest for side, (_, _, digest) in models.items()}}
    summary |= {"paper_model": paper_model, **environment(), "protocols": {}}
    for protocol in arguments.protocols:
        results = measure(arguments, models, processors[protocol], sets[protocol], accelerator, protocol)
        if not accelerator.is_main_process:
            continue
        shifted = SHIFTED if EMOJI_SHIFT in arguments.sets else ()
        comparison = Comparison(results["before"], results.get("after"), shifted=shifted, training_classes=shown)
        labelled = [name for name, result in comparison.before.items() if result.accepted is not None]
        summary["protocols"][protocol] = {
            "rows": comparison.rows(),
            "class_groups": comparison.class_groups(),
            "class_changes": {name: comparison.class_changes(name) for name in labelled} if arguments.compare else {},
            "curves": {name: curves for name in labelled if (curves := comparison.curves(name))},
        }
        tables = [main_table(comparison.rows()), *paper_tables(comparison, protocol, paper_model)]
        tables += [calibration_table(comparison), class_group_table(comparison)]
        documents["md"].append(f"# Protocol `{protocol}`\n")
        for table in filter(None, tables):
            documents["md"].append(f"{table.title}:\n\n{table.markdown()}\n")
            documents["tex"].append(f"% protocol {protocol}\n{table.latex()}")
        id2label = models["before"][1].config.id2label
        of_imagenet = any(name in PAPER_SETS for name in comparison.before)
        plots = arguments.output_dir / "plots" / protocol
        plots.mkdir(parents=True, exist_ok=True)
        save_plots(comparison, plots, dict(enumerate(class_names())) if of_imagenet else id2label)
    if accelerator.is_main_process:
        for suffix, parts in documents.items():
            write_atomically(arguments.output_dir / f"tables.{suffix}", "\n".join(parts))
        write_atomically(arguments.output_dir / "results.json", json.dumps(summary, indent=2) + "\n")
        print("\n" + "\n".join(documents["md"]))
        print(f"results.json, tables.md, tables.tex, plots and the predictions of each image: {arguments.output_dir}")
    leave(accelerator.device, accelerator.num_processes)


if __name__ == "__main__":
    main()
