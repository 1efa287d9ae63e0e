"""The report of a diagnosis: as text, as a section of a page, and its files, with a folder for FiftyOne."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.auto import tqdm

from ..data.composition import CONDITIONS
from ..data.find_images import Images
from ..data.geometry import place_in_image
from ..data.schema import mask_to_tensor
from ..data.transforms import eval_transform
from ..evaluation.examples import EXAMPLES_FILE, may_be_shown
from ..evaluation.results_files import write_results_json
from ..evaluation.session import Session, Side
from ..relevance.architectures import why_no_map
from ..relevance.relevance_map import relevance_map
from ..results.html_page import Section
from ..results.intervals import Interval
from ..results.plots import page_picture
from ..results.tables import Table
from ..utils.files import atomic_file, atomic_folder, write_atomically, write_json
from ..utils.images import to_rgb
from .attribute_verdict import AttributeDiagnosis, attributes_table
from .composed_examples import (
    NUM_EXAMPLES,
    RULE,
    TAKEN_FILE,
    Composed,
    save_composed,
    strip_figure,
    taken_gallery,
    taken_rows,
)
from .tables import PAIRS_FILE, advice, diagnosis_tables, matrices, pair_table
from .verdict import Diagnosis


STRIP_FILE, ATTRIBUTES_FILE, IMAGES_FILE = "strip.png", "attributes.png", "images.csv"
FIFTYONE_FOLDER = "fiftyone"
LONGEST_SIDE = 1024  # of the exported pictures, in pixels


@dataclass(frozen=True)
class DiagnosisReport:
    """Result of [`diagnose`]. As text, the verdict, tables and folder.

    Args:
        diagnoses: by side, `before` and maybe `after`.
        attributes: what else decides, by side; empty if not measured.
        examples: images in all conditions, the first of which the strip shows.
        taken: images that the last model takes for the class of the background, see [`TAKEN_RULE`].
        edited: some of the examples with the attributes of others; empty if not measured.
        without_map: sentences that say why relevance is left out.
        groups: table of the groups of the images as they are, if they have any.
        beside: measures on ImageNet-9 by the head of their column; empty if not measured.
    """

    diagnoses: dict[str, Diagnosis]
    attributes: dict[str, AttributeDiagnosis]
    examples: list[Composed]
    taken: list[Composed]
    edited: list[Composed]
    images: Images
    folder: Path
    without_map: list[str]
    groups: list[Table]
    beside: dict[str, dict[str, Interval]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """A sentence for each model, and one more with attributes."""
        sentences = [
            (side, of.sentence) for of_sides in (self.diagnoses, self.attributes) for side, of in of_sides.items()
        ]
        several = len(self.diagnoses) > 1
        return "\n".join(f"{side.capitalize()}: {text}" if several else text for side, text in sentences)

    @property
    def warnings(self) -> list[str]:
        """What stands in the way of the verdict, of any model, and what is left out."""
        warnings = [warning for diagnosis in self.diagnoses.values() for warning in diagnosis.warnings]
        return list(dict.fromkeys([*warnings, *self.images.notes, *self.without_map]))

    @cached_property
    def tables(self) -> list[Table]:
        """Measures, classes, pairs of class and background, groups, and attributes."""
        return [*diagnosis_tables(self.diagnoses, self.beside), *self.groups, *self.attribute_tables]

    @property
    def attribute_tables(self) -> list[Table]:
        """A table of attributes for each model; none if they were not measured."""
        return [attributes_table(diagnosis, side) for side, diagnosis in self.attributes.items()]

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """What was taken for what, see [`pair_table`]."""
        return pair_table(self.diagnoses, self.attributes)

    @property
    def advice(self) -> list[str]:
        """What to photograph next."""
        return advice(self.pairs, self.diagnoses)

    @property
    def table(self) -> Table:
        """The measures."""
        return self.tables[0]

    def figure(self) -> Figure:
        """Images in all conditions, with the predictions under each; a `ValueError` if no image could be composed."""
        if not self.examples:
            raise ValueError("No image could be composed with another background, so that there is none to show.")
        return strip_figure(self.examples[:NUM_EXAMPLES])

    def section(self) -> Section:
        """Section of a page."""
        notes, tables = [*self.advice, *self.warnings], [*self.tables, *matrices(self.pairs)]
        section = Section("Diagnosis: " + " ".join(self.verdict.splitlines()), tables, notes=notes)
        edited = (
            "Images with attributes of others, with the predicted classes; the table of attributes holds the rates."
        )
        composed = "Images in all conditions, with the predicted classes; the tables hold the rates."
        for alt, shown in {edited: self.edited, composed: self.examples[:NUM_EXAMPLES]}.items():
            if shown:
                section.plots.append(page_picture(strip_figure(shown), RULE, alt, "wide"))
        if self.taken:
            section.galleries.append(taken_gallery(self.taken))
        return section

    def __str__(self) -> str:
        look = f" Look at {self.folder / STRIP_FILE}: {RULE}." if self.examples else ""
        parts = [self.verdict, *self.advice, *self.warnings]
        for table in (self.table, *self.groups, *self.attribute_tables):
            parts += [f"{table.title}:", table.markdown()]
        parts.append(f"results.json, tables and the predictions of each image: {self.folder}.{look}")
        return "\n\n".join(["", *parts])


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
    for side, diagnosis in diagnoses.items():
        table |= {f"{side}_{name}": [names.get(best) for best in diagnosis.columns[name]] for name in CONDITIONS}
        table[f"{side}_relevance_on_object"] = diagnosis.columns["relevance_on_object"]
    return pd.DataFrame(table)


def write_report(report: DiagnosisReport, session: Session, settings: dict) -> None:
    """Write the files of a report, with the `settings` of the command."""
    folder, settings = report.folder, {name: value for name, value in settings.items() if value != []}
    of_images, last = image_table(report.diagnoses), [*report.diagnoses.values()][-1]
    csv = {IMAGES_FILE: of_images, TAKEN_FILE: of_images.iloc[taken_rows(last)], PAIRS_FILE: report.pairs}
    for name, table in csv.items():
        write_atomically(folder / name, table.to_csv(index=False))
    for name, shown in {STRIP_FILE: report.examples[:NUM_EXAMPLES], ATTRIBUTES_FILE: report.edited}.items():
        if shown:
            with atomic_file(folder / name) as partial:
                strip_figure(shown).savefig(partial, dpi=120, format="png")
    if report.examples:
        save_composed(report.examples, folder / EXAMPLES_FILE)
    facts: dict[str, Any] = {"masks": report.images.masks, "tables": [asdict(table) for table in report.tables]}
    facts |= {"num_images": len(report.images.rows), "num_rejected": report.images.rejected}
    facts["diagnosis"] = {side: diagnosis.record() for side, diagnosis in report.diagnoses.items()}
    if report.attributes:
        facts["attributes"] = {side: diagnosis.record() for side, diagnosis in report.attributes.items()}
    facts["advice"] = report.advice
    parts: list[str | Table] = [report.verdict, *report.advice, *report.warnings, *report.tables]
    write_results_json(session, folder, settings | {"protocol": session.protocol}, facts, parts)


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
