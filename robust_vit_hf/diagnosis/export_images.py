"""All images of a diagnosis one by one: as a CSV, and as a folder that FiftyOne opens, with masks and relevance maps."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.auto import tqdm

from ..data.composition import CONDITIONS
from ..data.mask_files import mask_to_tensor
from ..data.transforms import eval_transform
from ..evaluation.examples import may_be_shown
from ..evaluation.session import Session, Side
from ..relevance.architectures import why_no_map
from ..relevance.overlay import place_in_image
from ..relevance.relevance_map import relevance_map
from ..utils.files import atomic_folder, write_json
from ..utils.images import to_rgb
from .verdict import Diagnosis


IMAGES_FILE, FIFTYONE_FOLDER = "images.csv", "fiftyone"
LONGEST_SIDE = 1024  # of the exported pictures, in pixels


def image_table(diagnoses: Mapping[str, Diagnosis]) -> pd.DataFrame:
    """A row for each image: `image`, its file or number; `label`; `donor_same` and `donor_rand`, the images whose backgrounds it is
    given, and `donor_class`, the class of the second; `object_share`; and for each side the names of the predicted classes, as
    `before_original`, `before_mixed_same`, …, and `before_relevance_on_object`. Empty where there is none."""
    first = next(iter(diagnoses.values()))
    names = dict(enumerate(first.class_names))  # without -1, where there is no such image
    images = [*map(str, first.columns.get("file_name", range(len(first.columns["label"]))))]
    table: dict[str, object] = {"image": images, "label": [names[label] for label in first.columns["label"]]}
    for donor in ("donor_same", "donor_rand"):
        table[donor] = [images[row] if row >= 0 else None for row in first.columns[donor]]
    table["donor_class"] = [names.get(label) for label in first.columns["donor_class"]]
    table["object_share"] = first.columns["object_share"]
    for side, found in diagnoses.items():
        table |= {f"{side}_{name}": [names.get(best) for best in found.columns[name]] for name in CONDITIONS}
        table[f"{side}_relevance_on_object"] = found.columns["relevance_on_object"]
    return pd.DataFrame(table)


def export_fiftyone(table: pd.DataFrame, dataset: datasets.Dataset, session: Session, folder: Path) -> None:
    """Write a folder that `fiftyone.Dataset.from_dir(folder, dataset_type=fiftyone.types.FiftyOneDataset)` opens, in place of an
    earlier one. Its samples have the columns of the [`image_table`], classes as `Classification`; the `mask`, a `Segmentation`; and the
    relevance of the class that each side predicts, a `Heatmap` over the whole image, if its model has maps.

    Without a version in `metadata.json`, FiftyOne derives the schema from the samples. Tried with FiftyOne 1.22.1.
    Source: https://docs.voxel51.com/user_guide/import_datasets.html
    """
    shutil.rmtree(folder, ignore_errors=True)
    sides = {name: side for name, side in session.sides.items() if why_no_map(side.model) is None}
    transforms = {name: eval_transform(side.processor) for name, side in sides.items()}
    samples = []
    with atomic_folder(folder) as partial:
        for row in tqdm(np.flatnonzero(may_be_shown(dataset)).tolist(), desc="export", unit="image"):
            given = dataset[row]
            image, mask = to_rgb(given["image"]), mask_to_tensor(given["mask"]) >= 128
            scale = min(1, LONGEST_SIDE / max(image.size))
            size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
            of_mask = to_pil_image(255 * mask.to(torch.uint8)).resize(size, Image.Resampling.NEAREST)
            pictures = {"data": image.resize(size), "fields/mask": of_mask}
            for name, side in sides.items():
                (pixel_values,) = transforms[name]({"image": [image]})["pixel_values"]
                pictures[f"fields/{name}_relevance"] = _map_over_image(session, side, pixel_values, size)
            for place, picture in pictures.items():
                (partial / place).mkdir(parents=True, exist_ok=True)
                picture.save(partial / place / f"{row:06}.png")
            samples.append(_sample(table.iloc[row].to_dict(), {name: f"{name}/{row:06}.png" for name in pictures}))
        targets = {"255": "object"}
        write_json(partial / "metadata.json", {"media_type": "image", "info": {"default_mask_targets": targets}})
        write_json(partial / "samples.json", {"samples": samples})


def _map_over_image(session: Session, side: Side, pixel_values: torch.Tensor, size: tuple[int, int]) -> Image.Image:
    with torch.no_grad(), session.accelerator.autocast():
        output = relevance_map(side.model, pixel_values[None].to(session.accelerator.device), check_finite=False)
    return place_in_image(output.relevance[0, 0].float(), size, side.processor)


def _sample(row: dict, files: dict[str, str]) -> dict:
    """A sample as FiftyOne serialises it, with paths relative to its folder."""
    sample: dict[str, object] = {"filepath": files["data"], "tags": []}
    for name, value in row.items():
        is_class = name in ("label", "donor_class") or name.partition("_")[2] in CONDITIONS
        if not pd.isna(value):
            sample[name] = {"_cls": "Classification", "label": value} if is_class else value
    sample["mask"] = {"_cls": "Segmentation", "mask_path": files["fields/mask"]}
    for place, file in files.items():
        if place.endswith("_relevance"):
            sample[place.removeprefix("fields/")] = {"_cls": "Heatmap", "map_path": file}
    return sample
