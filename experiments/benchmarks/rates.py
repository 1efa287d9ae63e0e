"""Whether the learning rate that `improve --effort full` takes from the size of the weights also suits a Swin and a
ConvNeXt.

    python -m experiments rates --root runs/rates    # about an hour of one core; start it again to resume it

No package has pretrained weights of these two, so small ones learn all their weights from the split `bias` of
emoji-shift, and classify by the background. Each is then improved with 384 training images, with rates from a quarter
to eight times the one of the rule. What counts is the expected top-1 on the 192 validation images at a quarter of
other backgrounds, the criterion of `improve`. Masks are true.

Writes rates.json next to this script: for each model, its rate and worth, and by factor and interpolation weight the
worth of the training.
"""

from pathlib import Path

import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    TrainingArguments,
)

from robust_vit_hf import improve, make_image_processor, train_transform
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, IMAGE_SIZE, load_split
from robust_vit_hf.improvement.finetune import learning_rate
from robust_vit_hf.models.loading import load_model
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json

from ..makers.train_emoji_bias import LabelTrainer
from ..scripts import script_parser


RESULTS = Path(__file__).with_suffix(".json")
SEED, IMAGES = 40, {"train": 384, "validation": 192}
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
NAMES = {
    "id2label": dict(enumerate(CLASS_NAMES)),
    "label2id": {name: label for label, name in enumerate(CLASS_NAMES)},
}


def small_swin() -> PreTrainedModel:
    config = SwinConfig(image_size=IMAGE_SIZE, embed_dim=32, depths=[2, 2, 2], num_heads=[2, 4, 8], **NAMES)
    return SwinForImageClassification(config)


def small_convnext() -> PreTrainedModel:
    config = ConvNextConfig(image_size=IMAGE_SIZE, hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 4, 2], **NAMES)
    return ConvNextForImageClassification(config)


def train(model: PreTrainedModel, folder: Path) -> None:
    """Train all weights of a model on images with the usual backgrounds, and write it to the folder."""
    processor = make_image_processor("paper", IMAGE_SIZE)
    arguments = TrainingArguments(
        f"{folder}-training", num_train_epochs=10, per_device_train_batch_size=32, learning_rate=1e-3, warmup_steps=100,
        lr_scheduler_type="cosine", save_strategy="no", use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False, label_names=["labels"], report_to="none", seed=SEED,
    )  # fmt: skip
    rows = load_split("bias", 3840, SEED).with_transform(train_transform(processor))
    LabelTrainer(model, arguments, train_dataset=rows).train()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def trained_worths(model: Path, photographs: Path, folder: Path, **options) -> tuple[float, dict[str, float]]:
    """Expected top-1, in per cent, of the model, and of its training by interpolation weight."""
    report = improve(str(model), str(photographs), folder, effort="full", **options)
    worths = {tuple(row[:2]): float(row[2]) for row in report.candidates.rows}
    trained = {weight: worth for (name, weight), worth in worths.items() if name.startswith("finetuned")}
    return worths["original", "–"], trained


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    root = parser.parse_args().root
    photographs = root / "photographs"
    for split, name in {"train": "train", "validation": "val"}.items():
        if not (photographs / f"{split}-00000.parquet").is_file():
            photographs.mkdir(parents=True, exist_ok=True)
            load_split(name, IMAGES[split], SEED).to_parquet(photographs / f"{split}-00000.parquet")
    for name, made in {"Swin": small_swin, "ConvNeXt": small_convnext}.items():
        model = root / name
        if not (model / "config.json").is_file():
            torch.manual_seed(SEED)
            train(made(), model)
        rate = learning_rate(load_model(str(model)))
        for factor in FACTORS:
            results = read_json(RESULTS) or {"models": {}}
            found = results["models"].setdefault(name, {"rate": rate, "trained": {}})
            if f"{factor:g}" in found["trained"]:
                continue
            before, trained = trained_worths(
                model, photographs, root / f"{name}-{factor:g}", learning_rate=factor * rate
            )
            found["before"], found["trained"][f"{factor:g}"] = before, trained
            write_json(RESULTS, results | environment())
            print(name, f"{factor:g}", before, trained, flush=True)
