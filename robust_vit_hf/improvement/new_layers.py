"""New last layers of a model, from features that are computed once, as candidates of an improvement."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.geometry import input_size
from ..evaluation.session import Session, Side
from ..hub.model_card import describe_model
from ..models.interpolation import INTERPOLATION_FILE
from ..models.last_layer import LastLayer
from ..training.background_swap import BackgroundPool
from ..utils.files import RUN_FILE, weights_written, write_json
from .candidates import MIXTURES, Mixture, choose_cheapest
from .composites import SELECTION_COMPOSITES, Composites, composite_outputs, training_composites
from .fit_layers import Layer, LayerSettings, new_layers, temperature_of


LAYER_FOLDER, FEATURES_FOLDER = "layer", "features"


@dataclass(frozen=True, eq=False)
class NewLayers:
    """The layers by settings, and their mixtures with the original's on the selection images."""

    side: Side
    session: Session  # with the images to train on
    folder: Path
    last: LastLayer
    layers: dict[Any, Layer]  # that of the original by `None`
    before: Mixture
    mixtures: list[Mixture]
    selection: Composites

    @classmethod
    def of(
        cls,
        of_role: Mapping[str, Session],
        folder: Path,
        passes: tuple[int, int],
        pool: BackgroundPool | None,
        attributes: Sequence[str] = (),
    ) -> "NewLayers":
        """Compute features and layers; the backgrounds of the training images are those of `pool`, if given. Images are given the
        `attributes` of others too.

        Raises:
            NoLastLayer: the model has no last linear layer.
        """
        side, device = of_role["train"].sides["before"], of_role["train"].accelerator.device
        last = LastLayer(side.model.eval(), torch.ones(1, 3, *input_size(side.processor), device=device))
        (train,) = of_role["train"].sets.values()
        parts = {"train": (training_composites(len(train.dataset)), pool), "selection": (SELECTION_COMPOSITES, None)}
        features = {}
        for role, (count, pictures) in parts.items():
            given = side, of_role[role], count, passes, last, folder / FEATURES_FOLDER / role, pictures
            features[role] = composite_outputs(*given, attributes=attributes)
        own = Layer(*(values.cpu().double().numpy() for values in (last.weight, last.bias)))
        layers = dict(new_layers(own, features["train"], last.has_bias))
        selection = features["selection"]
        before = Mixture.of(selection.mapped(own.logits))
        mixtures = [
            Mixture.of(selection.mapped(own.mixed(layer, alpha).logits), settings, alpha)
            for settings, layer in layers.items()
            for alpha in MIXTURES
        ]
        return cls(side, of_role["train"], folder, last, {None: own, **layers}, before, mixtures, selection)

    def layer(self, settings: object, alpha: float) -> Layer:
        """The layer of a mixture; without settings, the original's."""
        return self.layers[None].mixed(self.layers[settings], alpha)

    def model(self, layer: Layer) -> torch.nn.Module:
        """Copy of the original model with another layer."""
        model = deepcopy(self.side.model)
        weight, bias = (torch.from_numpy(values).float().to(model.device) for values in layer)
        self.last.of(model).replace(weight, bias)
        return model

    def saved_start(self, max_loss: float) -> tuple[Side, dict[str, str]] | None:
        """The original model with the new layer that the rule chooses, saved to be finetuned from, and how the layer was made; `None` if
        the rule chooses none."""
        chosen = choose_cheapest([self.before, *self.mixtures], self.before, max_loss)
        if chosen.settings is None:
            return None
        model = self.model(self.layer(chosen.settings, chosen.alpha))
        folder = self.folder / LAYER_FOLDER
        model.save_pretrained(folder)
        self.side.processor.save_pretrained(folder)
        return Side.of(model, self.side.processor, str(folder)), _described(chosen.settings, chosen.alpha)

    def write(self, settings: LayerSettings, alpha: float, folder: Path, facts: dict) -> None:
        """Write a mixture as a model, with its record. Its temperature, fitted on the selection images, is within the layer."""
        layer = self.layer(settings, alpha)
        # Where the original is right on all, as on images that have its predictions for labels, nothing tells how sure to be.
        temperature = 1.0 if self.before.original.all() else temperature_of(self.selection.mapped(layer.logits))
        model = self.model(Layer(layer.weight / temperature, layer.bias / temperature))
        with weights_written(folder):
            model.save_pretrained(folder)
        (folder / INTERPOLATION_FILE).unlink(missing_ok=True)  # of a training that was chosen here before
        (rows,) = self.session.sets.values()
        run = describe_model(model, self.side.processor, facts | {"folder": folder}, rows.dataset)
        run["seconds"] = None  # nothing was trained
        run["training"] = _described(settings, alpha)
        run["training"]["temperature, fitted on the selection images"] = f"{temperature:.2f}"
        write_json(folder / RUN_FILE, run)


def _described(settings: object, alpha: float) -> dict[str, str]:
    """Rows of the card."""
    return {"last layer": str(settings), "share of the new layer": f"{alpha:g}"}
