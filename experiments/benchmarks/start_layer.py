"""From which layer on relevance covers the object best: mean IoU with the masks of a set for each `start_layer`.

    python -m experiments start_layer --model models/clip --set imagenet-segmentation=gtsegs_ijcv.mat
    python -m experiments start_layer --model emoji-shift                # the bundled model and images

Prints a table. Maps explain the predicted class and are thresholded at their mean, as in the paper's segmentation test. The early layers
of CLIP-B/16 are said to give noisy maps (https://github.com/hila-chefer/Transformer-MM-Explainability/issues/8); finetune with the
`--start_layer` that is best on images that you do not test on.
"""

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import default_data_collator

from robust_vit_hf import load_image_set, load_masked_dataset, load_model, relevance_map
from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.data.transforms import segmentation_transform
from robust_vit_hf.evaluation.measurement import TransformedRows
from robust_vit_hf.evaluation.options import NamedSource
from robust_vit_hf.metrics.streaming import RelevanceSegmentation
from robust_vit_hf.models.image_processors import load_processor, resolve_protocol, squash_resample
from robust_vit_hf.relevance.architectures import VisionTransformer
from robust_vit_hf.results.tables import Table

from ..scripts import script_parser


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", required=True, help="name, folder or Hub id")
    parser.add_argument("--set", type=NamedSource.parse, help="set with masks, and its source")
    parser.add_argument("--dataset", help="images with masks of your own")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--num_images", type=int, default=300)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(arguments.model).eval().to(device)
    processor = load_processor(arguments.model, resolve_protocol(None, arguments.model), model)
    if arguments.dataset:
        rows = load_masked_dataset(arguments.dataset, arguments.split)
    elif arguments.set:
        rows = load_image_set(*arguments.set)
    else:
        rows = load_split("val", arguments.num_images)
    rows = rows.select(range(min(arguments.num_images, len(rows)))).select_columns(["image", "mask"])
    images = TransformedRows(rows, segmentation_transform(processor, squash_resample(processor)))
    loader = DataLoader(images, 16, collate_fn=default_data_collator)
    layers = range(len(VisionTransformer(model).attentions))
    scores = {layer: RelevanceSegmentation() for layer in layers}
    for batch in tqdm(loader, unit="batch"):
        for layer in layers:
            with torch.no_grad():
                output = relevance_map(model, batch["pixel_values"].to(device), start_layer=layer)
            scores[layer].update(output.relevance, batch["mask"])
    cells = []
    for layer in layers:
        found = scores[layer].compute()
        cells.append([str(layer), *(f"{100 * found[name]:.1f}" for name in ("mean_iou", "pixel_accuracy", "mean_ap"))])
    print(Table("", ["start layer", "mIoU", "pixel accuracy", "mAP"], cells).markdown())
    print(f"\n{len(rows)} images, {Path(arguments.model).name}")
