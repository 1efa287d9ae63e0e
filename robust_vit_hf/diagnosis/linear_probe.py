"""Whether photographs invite a shortcut, before a model is trained: a linear probe is fitted to them instead."""

import copy
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import PartialState
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from transformers import ViTImageProcessor

from ..data.balanced_splits import turns_within_classes
from ..data.classes import class_names_of
from ..data.find_images import find_images
from ..data.transforms import input_size
from ..evaluation.other_backgrounds import Batch, Pictures, Tensors, composite_pass, composites_of
from ..evaluation.session import Measurement, Session, Side
from ..evaluation.sets import EvaluationSet
from ..masks.choose_mask_maker import DINOV2_SMALL
from ..masks.tokencut import backbone_of
from ..models.emoji_shift_model import INSTALL_BACKBONE
from ..models.image_processors import STATISTICS
from ..models.last_layer import LastLayer
from ..models.loading import load_model, with_new_head
from ..results.tables import Table
from .verdict import COSTS, Diagnosis, percent


MAX_FOLDS, IMAGE_SIZE = 5, 168  # with 168 pixels, DINOv2-S takes half of the time of 224
PENALTIES = 10.0 ** np.arange(-4, 3)  # relative to the mean square of the standardised features
NAMED = 5  # classes that a cell of the table names
LIKELY = {
    "decides": "a model trained on them is likely to use it",
    "partly": "a model trained on them may use it",
    "no sign": "they give a model no reason to use it",
    "too few": "they are too few to tell whether a model would use it",
}


class LinearProbe(Side):
    """DINOv2-S, whose last layer is fitted by [`CrossValidatedProbe`]."""

    @classmethod
    def for_images(cls, dataset: str, split: str) -> "LinearProbe":
        """Probe with the classes of these images. Raises an `OSError` if none of [`DINOV2_SMALL`] can be loaded."""
        with PartialState().main_process_first():
            rows = find_images(dataset, split, ("label",)).rows
        labels = rows.with_format(None)["label"][:]
        classes = class_names_of(rows.features) or [*map(str, range(1 + max(filter(None, labels), default=0)))]
        mean, std = STATISTICS["imagenet"]
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}  # not cropped, which would cut off backgrounds
        processor = ViTImageProcessor(size=size, image_mean=mean, image_std=std)
        for name, described in DINOV2_SMALL.items():
            with suppress(ImportError, OSError):
                backbone = backbone_of(name)
                model = load_model(name, classes=classes) if backbone is None else copy.deepcopy(backbone)
                text = f"a linear classifier on {described}, fitted to the photographs"
                return cls.of(with_new_head(model, classes).eval(), processor, text)
        text = "a classifier is fitted on DINOv2-S, which is not installed and cannot be loaded from the Hub"
        raise OSError(f"Without --model, {text}: install it ({INSTALL_BACKBONE}), or name a model.")


def fit_probe(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `(C, D)` and bias `(C,)`, fp32, of the ridge regression of labels `(N,)`, as one-hot vectors, on
    standardised features `(N, D)`, with the one of [`PENALTIES`] that has the least leave-one-out error."""
    scaler, ridge = StandardScaler(), RidgeCV(PENALTIES * features.size)
    ridge.fit(scaler.fit_transform(features.astype(float)), np.eye(num_classes)[labels])
    weight = ridge.coef_ / scaler.scale_
    return torch.from_numpy(weight).float(), torch.from_numpy(ridge.intercept_ - weight @ scaler.mean_).float()


@dataclass(frozen=True)
class CrossValidatedProbe(Measurement):
    """A measurement of composites by a [`LinearProbe`]: each fold of the images is measured by a layer that is fitted
    to the other folds. Donors are of the same fold, so that the layer saw neither image nor donor. Rows have two more
    columns: `fold`, and `background`, the class that a layer fitted to backgrounds (`only_bg`) predicts from them."""

    of_fold: Measurement

    def inputs(self) -> dict:
        return self.of_fold.inputs() | {"folds": MAX_FOLDS, "penalties": PENALTIES.tolist()}

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str) -> pd.DataFrame:
        labels, parts = rows.labels, []
        counts = np.sort(np.unique(labels, return_counts=True)[1])
        if (counts > 1).sum() < 2:
            raise ValueError("Fewer than two classes have two images: give two of each class, or name a --model.")
        layer = LastLayer(side.model, input_size(side.processor))
        composites = composites_of(["original", "only_bg"])

        def outputs_of(batch: Batch, pictures: Pictures, usable: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
            logits, features = zip(*map(layer.outputs, pictures), strict=True)
            return [*logits], torch.stack(features, dim=1)

        batches = composite_pass(side, rows, session, f"{title}, features", composites, {}, outputs_of)
        features = np.concatenate([values for _, values in batches])
        typical = int(counts[(len(counts) - 1) // 2])  # images of a class; a fold needs two
        folds = (turns_within_classes(labels, 0) + labels) % min(MAX_FOLDS, max(2, typical // 2))
        for fold in np.unique(folds).tolist():
            members, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            fitted = [fit_probe(features[others, place], labels[others], len(session.classes)) for place in range(2)]
            layer.replace(*(part.to(layer.weight.device) for part in fitted[0]))
            accepted = [rows.accepted[member] for member in members]
            held_out = replace(rows, dataset=rows.dataset.select(members), accepted=accepted)
            table = self.of_fold.measure(side, held_out, session, f"{title}, fold {fold + 1}").set_index(members)
            for name in table.columns[table.columns.str.match("donor_(same|rand)")]:
                table[name] = np.where(table[name] >= 0, members[table[name]], -1)
            table["background"] = F.linear(torch.from_numpy(features[members, 1]), *fitted[1]).argmax(dim=1).numpy()
            parts.append(table.assign(fold=fold))
        return pd.concat(parts).sort_index()


class PhotographsDiagnosis(Diagnosis):
    """Measures of a [`LinearProbe`], and what they say about the photographs that it was fitted to."""

    NAME: ClassVar = "It"
    IF_WEAK: ClassVar = "give more photographs of each class"

    @property
    def likely(self) -> str:
        """Key of [`LIKELY`]. It also depends on how much more often than by chance the background tells the class."""
        return self.judged(("background_excess", *COSTS))

    @property
    def sentence(self) -> str:
        if not self.num_mixed:
            return super().sentence
        told, chance = self.measures["background"], self.measures["background_chance"]
        count = int((~np.isnan(self.values["background"])).sum())
        tells = f"{percent(told)} of {count} photographs (chance {100 * chance.mean:.0f} %): {LIKELY[self.likely]}"
        return (
            f"The background alone tells the class for {tells}. A linear classifier fitted to them: {super().sentence}"
        )

    def record(self) -> dict:
        return super().record() | {"photographs": self.likely}

    def told_table(self) -> Table:
        """For each class, how often its background tells it, and as which classes it is predicted, or never."""
        known, names = ~np.isnan(self.values["background"]), dict(enumerate(self.class_names))
        labels, predicted = (pd.Series(self.columns[name])[known].map(names) for name in ("label", "background"))
        counts = pd.crosstab(labels, predicted).reindex(columns=sorted({*labels, *predicted}), fill_value=0)
        rows = []
        for name, of_class in counts.iterrows():
            others = of_class.drop(name).sort_values(ascending=False, kind="stable")
            shared = [f"{other} ({count})" for other, count in others.items() if count]
            cells = (of if len(of) <= NAMED else [*of[:NAMED], "…"] for of in (shared, [*others.index[others == 0]]))
            rows.append([name, f"{of_class[name]} of {of_class.sum()}", *(", ".join(of) or "–" for of in cells)])
        head = ["class", "told by its background", "background predicted as", "background never predicted as"]
        return Table("Backgrounds of the classes", head, rows)
