"""Finetune the relevance maps of a vision transformer.

    accelerate launch trainer/train.py                          # the bundled benchmark, emoji-shift
    accelerate launch trainer/train.py --model vit-b --dataset PATH_OR_ID --output_dir runs/vit-base

The first argument may be a YAML recipe; options on the command line override it. The paper's seven models (vit-b, vit-l,
augreg-s, augreg-b, augreg-l, deit-s, deit-b) have one each, which is taken without being named. `--help` lists all options.
"""

import argparse
import difflib
import json
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import yaml
from torch import nn
from transformers import HfArgumentParser, PreTrainedModel, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from robust_vit_hf import RobustViTConfig, RobustViTTrainer, load_masked_dataset
from robust_vit_hf.architectures import attention_modules
from robust_vit_hf.data.shards import SETTINGS_FILE
from robust_vit_hf.emoji_shift import (
    CLASS_NAMES,
    SHIFTED,
    load_evaluation_sets,
    load_finetuning_splits,
)
from robust_vit_hf.evaluation import Comparison, EvaluationSet, evaluate_sets
from robust_vit_hf.evaluation.tables import main_table
from robust_vit_hf.files import public_settings
from robust_vit_hf.launch import leave, use_all_cores
from robust_vit_hf.models import EMOJI_SHIFT, LICENSES, ZOO, load_model, load_processor
from robust_vit_hf.report import write_report


METRICS = Path(__file__).parents[1] / "eval"
RECIPES = Path(__file__).parent / "recipes"


@dataclass
class ModelArguments:
    model: str = field(
        default=EMOJI_SHIFT,
        metadata={
            "help": f"One of the paper's models ({', '.join(ZOO)}), Hub id (also of timm) or folder of an image classification "
            "model, or `emoji-shift` for the bundled one."
        },
    )
    preset: str = field(
        default="paper",
        metadata={
            "help": "Preprocessing in training and evaluation: `paper` (0.5 statistics, 256 bilinear) or `native` "
            "(the model's own statistics, 248 bicubic).",
            "choices": ["paper", "native"],
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the images in pixels; what the model was made for by default."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that comes with the weights."})
    lora_rank: int | None = field(
        default=None,
        metadata={"help": "Finetune a LoRA adapter of this rank over all linear layers, and save it alone."},
    )
    merge_lora: bool = field(default=False, metadata={"help": "Save the adapter merged into the weights."})


@dataclass
class DataArguments:
    dataset: str = field(
        default=EMOJI_SHIFT,
        metadata={
            "help": "Images with masks: Hub id, parquet file or folder, `save_to_disk` folder, image folder with a "
            "metadata.jsonl, or `emoji-shift`. `trainer/prepare_masks.py` and `python -m robust_vit_hf.data` write such."
        },
    )
    train_split: str = field(
        default="train", metadata={"help": "Split to train on; slices such as `train[:80%%]` work."}
    )
    eval_split: str = field(default="validation", metadata={"help": "Split to validate on."})
    samples_per_class: int = field(default=5, metadata={"help": "emoji-shift: training images of each shown class."})
    images_per_set: int = field(default=300, metadata={"help": "emoji-shift: images of each evaluation set."})
    control: bool = field(
        default=False,
        metadata={"help": "Finetune a second copy with cross-entropy alone on the same images, for comparison."},
    )


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, RobustViTConfig]:
    """Arguments from a recipe, if the first one is no option, overridden by the command line."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, RobustViTConfig), description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    recipe = None
    if argv and not argv[0].startswith("-"):
        recipe, argv = Path(argv[0]), argv[1:]
    else:
        named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for option in ("--model", "--dataset", "--help", "-h"):
            named.add_argument(option, nargs="?", const="", dest=option.strip("-"))
        named = vars(named.parse_known_args(argv)[0])
        if named["model"] in ZOO:
            recipe = RECIPES / f"{named['model']}.yaml"
        elif set(named.values()) == {None}:
            recipe = RECIPES / "emoji_shift.yaml"
    if recipe is not None:
        values = yaml.safe_load(recipe.read_text())
        if not isinstance(values, dict):
            raise ValueError(f"`{recipe}` is no mapping of option names to values, but {type(values).__name__}.")
        known = [option.name for arguments in parser.dataclass_types for option in fields(arguments) if option.init]
        for key in values.keys() - set(known):
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ValueError(
                f"Unknown option `{key}` in `{recipe}`." + (f" Did you mean `{close[0]}`?" if close else "")
            )
        parser.set_defaults(**values)
    return parser.parse_args_into_dataclasses(argv)


def check_output_dir(config: RobustViTConfig) -> str | None:
    """Checkpoint to resume from, if any.

    Raises:
        ValueError: the folder holds another run, or there is nothing in it to resume.
    """
    folder = Path(config.output_dir)
    if config.resume_from_checkpoint is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"`{folder}` holds another run. Choose another --output_dir, delete it, or continue it with "
                "`--resume_from_checkpoint last`."
            )
        return None
    checkpoints = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    if config.resume_from_checkpoint != "last":
        if Path(config.resume_from_checkpoint).resolve() not in [path.resolve() for path in checkpoints]:
            raise ValueError(
                f"`{config.resume_from_checkpoint}` is no whole checkpoint in the output_dir `{folder}`, which has "
                f"{', '.join(path.name for path in checkpoints) or 'none'}."
            )
        return config.resume_from_checkpoint
    if not checkpoints:
        raise ValueError(f"`{folder}` holds no whole checkpoint to resume. Leave out --resume_from_checkpoint.")
    return str(max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-"))))


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: a kill may have left only a part. The state is written last."""
    try:
        return bool(json.loads((checkpoint / TRAINER_STATE_NAME).read_text()))
    except (OSError, json.JSONDecodeError):
        return False


def load_data(arguments: DataArguments, model_name: str, model, seed: int):
    """Training set, validation set, and the evaluation sets of the table by name.

    Raises:
        ValueError: the data do not fit the model or the control.
    """
    bundled_images = arguments.dataset == EMOJI_SHIFT
    if bundled_images:
        if tuple(model.config.id2label.values()) != CLASS_NAMES:
            raise ValueError("This model has other classes than emoji-shift: name its images with --dataset.")
        train, validation = load_finetuning_splits(arguments.samples_per_class, seed)
    else:
        train = load_masked_dataset(arguments.dataset, arguments.train_split)
        validation = load_masked_dataset(arguments.dataset, arguments.eval_split)
    if arguments.control and "label" not in train.column_names:
        raise ValueError("The control trains on labels, but the dataset has no column `label`: leave out --control.")
    if model_name != EMOJI_SHIFT and not bundled_images:
        return train, validation, {arguments.eval_split: validation}
    # Images of emoji-shift with other masks, made by `prepare_masks.py`, are compared on its evaluation sets.
    if tuple(getattr(train.features.get("label"), "names", ())) != CLASS_NAMES:
        raise ValueError(
            f"The bundled model knows the classes of emoji-shift alone: name one for `{arguments.dataset}` with --model."
        )
    return train, validation, load_evaluation_sets(arguments.images_per_set)


def with_adapter(model: PreTrainedModel, arguments: ModelArguments) -> nn.Module:
    """The model, with a new LoRA adapter if one is asked for."""
    if arguments.lora_rank is None:
        return model
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=arguments.lora_rank, lora_alpha=2 * arguments.lora_rank, target_modules="all-linear")
    adapted = get_peft_model(model, adapter)
    # The name by which others find the base; the library would write the folder that it was loaded from.
    adapted.peft_config["default"].base_model_name_or_path = ZOO.get(arguments.model, arguments.model)
    return adapted


def masks_of(dataset: str) -> str:
    """Where the masks of a data set are from, as far as it says."""
    if dataset == EMOJI_SHIFT:
        return "exact, from the composition of the images"
    made_by = Path(dataset) / SETTINGS_FILE
    settings = json.loads(made_by.read_text(encoding="utf-8")) if made_by.is_file() else {}
    methods = {split.get("method", split.get("set")) for split in settings.values()} - {None}
    return f"made by {', '.join(sorted(methods))}" if methods else "those that came with the data set"


def main(argv: list[str]) -> None:
    started = time.time()
    model_arguments, data_arguments, config = parse_arguments(argv)
    checkpoint = check_output_dir(config)
    if model_arguments.merge_lora and model_arguments.lora_rank is None:
        raise ValueError("--merge_lora merges the adapter of --lora_rank, which is not given.")
    set_seed(config.seed)
    if config.device.type == "cpu" and config.world_size == 1:
        use_all_cores()

    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("The figures need matplotlib: pip install 'robust-vit-hf[train]'")

    original = partial(load_model, model_arguments.model, model_arguments.trust_remote_code)
    model = original()
    attention_modules(model)  # refuses an architecture before its data are read
    model = with_adapter(model, model_arguments)
    processor = load_processor(model_arguments.model, model_arguments.preset, model, model_arguments.image_size)
    train, validation, sets = load_data(data_arguments, model_arguments.model, model, config.seed)
    trainer = RobustViTTrainer(model, config, train, validation, processor)
    accelerator = trainer.accelerator

    sets = {name: EvaluationSet.of(dataset) for name, dataset in sets.items()}
    before = evaluate_sets(trainer.model, sets, processor, accelerator, METRICS, description="before")
    trainer.train(resume_from_checkpoint=checkpoint)
    if model_arguments.merge_lora:
        trainer.model = trainer.model_wrapped = accelerator.unwrap_model(trainer.model).merge_and_unload()
    trainer.save_model(_internal_call=True)  # or else it would be pushed before it is measured
    trainer.save_state()
    after = evaluate_sets(trainer.model, sets, processor, accelerator, METRICS, description="after")

    control = None
    if data_arguments.control:
        control_config = replace(
            config,
            relevance_weight=0.0,
            confidence_weight=1.0,
            confidence_target="label",
            confidence_temperature=1.0,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            report_to="none",
            push_to_hub=False,
        )
        control_model = with_adapter(original(), model_arguments)
        control_trainer = RobustViTTrainer(control_model, control_config, train, validation, processor)
        control_trainer.train()
        control = evaluate_sets(
            control_trainer.model, sets, processor, accelerator, METRICS, relevance=False, description="control"
        )

    if accelerator.is_main_process:
        emoji_shift = EMOJI_SHIFT in (model_arguments.model, data_arguments.dataset)
        comparison = Comparison(
            before,
            after,
            control,
            SHIFTED if emoji_shift else (),
            frozenset(train.unique("label")) if "label" in train.column_names else None,
        )
        write_report(
            Path(config.output_dir),
            comparison,
            sets,
            processor,
            {"before": original(), "after": accelerator.unwrap_model(trainer.model)},
            {
                "model": public_settings(asdict(model_arguments)),
                "data": public_settings(asdict(data_arguments)),
                "training": config.to_sanitized_dict(),
                "seconds": round(time.time() - started, 1),
            },
        )
        print(
            f"\n{main_table(comparison.rows()).markdown()}\n\nModel, results.json, table and figure: {config.output_dir}"
        )
    started_from = ZOO.get(model_arguments.model, model_arguments.model)
    description = {
        "started_from": started_from,
        "dataset": data_arguments.dataset,
        "masks": masks_of(data_arguments.dataset),
        "license": LICENSES.get(started_from),
    }
    if config.push_to_hub:
        trainer.push_to_hub(**description)  # which writes the card before it uploads
    else:
        trainer.create_model_card(**description)
    leave(config.device, config.world_size)


if __name__ == "__main__":
    main(sys.argv[1:])
