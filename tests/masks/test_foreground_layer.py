"""The bundled foreground layer: its smoothed scores by their definition, masks that the cut confirms or doubts, and background removers."""

import sys

import datasets
import numpy as np
import pytest
import rembg
import torch
from PIL import Image

from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.data.mask_checks import confirmed
from robust_vit_hf.masks import foreground_layer, tokencut
from robust_vit_hf.masks.background_remover import background_remover
from robust_vit_hf.masks.foreground_layer import ConfirmedMasks, ForegroundLayer, bundled_layer
from robust_vit_hf.models.emoji_shift_model import load_backbone

from ..helpers.tiny import tiny_vit


def test_scores_by_their_definition():
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    layer = ForegroundLayer(torch.tensor([1.0, -2.0, 0.5]), torch.tensor(0.25))
    scores = layer.scores(hidden)
    for image, of_image in zip(hidden.double().numpy(), scores, strict=True):
        lengths = np.linalg.norm(image, axis=1)
        weights = np.exp(20 * (image @ image.T) / np.outer(lengths, lengths))
        weights /= weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(of_image, weights @ weights @ (image @ [1, -2, 0.5] + 0.25), rtol=1e-5)


def overlap(result, row) -> float:
    mask, true = np.asarray(result.mask) > 0, np.asarray(row["mask"].resize(result.mask.size)) > 0
    return (mask & true).sum() / (mask | true).sum()


def test_masks_of_drawings_on_photographs():
    """The layer, trained on photographs, finds pasted drawings; masks in doubt are worse than those that the cut confirms."""
    rows = load_split("val", 24)
    results = ConfirmedMasks(load_backbone().eval(), min_side=224)([*rows["image"]], [{}] * 24)
    overlaps = np.array([overlap(result, row) for result, row in zip(results, rows, strict=True)])
    trusted = np.array([result.doubt is None for result in results])
    assert overlaps.mean() > 0.5 and 0 < trusted.sum() < 24
    assert overlaps[trusted].mean() > overlaps[~trusted].mean() + 0.1


def test_a_mask_is_in_doubt_unless_the_cut_agrees(monkeypatch):
    scores, cut = np.full((16, 16), -1.0, np.float32), np.zeros((16, 16), dtype=bool)
    scores[4:12, 4:8], cut[4:12, 4:8] = 1, True
    make = ConfirmedMasks(load_backbone().eval(), refine=False)
    monkeypatch.setattr(ForegroundLayer, "scores", lambda self, hidden: torch.from_numpy(scores).flatten()[None])
    monkeypatch.setattr(
        foreground_layer.TokenCut,
        "features",
        lambda self, images, grid: tokencut.PatchFeatures(*2 * [torch.ones(1, 1, 1)]),
    )
    monkeypatch.setattr(tokencut, "coarse_masks", lambda vectors, grid: cut[None])
    for unique, columns, doubted in ((True, 4, False), (True, 8, False), (True, 9, True), (False, 4, True)):
        vectors = None, torch.tensor([unique])
        monkeypatch.setattr(tokencut, "cut_eigenvectors", lambda keys, vectors=vectors: vectors)
        cut[4:12] = np.arange(16) // 4 == 1
        cut[4:12, 8 : 4 + columns] = True
        (result,) = make([Image.new("RGB", (224, 224))], [{}])
        assert (result.doubt is not None) is doubted and result.rejected is None
        square = Image.fromarray(scores > 0).resize((224, 224), Image.Resampling.NEAREST)
        assert overlap(result, {"mask": square}) > 0.9  # but for corners, which interpolation rounds
    assert "IoU" in result.doubt


def test_only_for_dinov2_s():
    with pytest.raises(ValueError, match="is not a DINOv2-S"):
        ConfirmedMasks(tiny_vit())
    assert bundled_layer().weight.shape == (384,)


def test_which_masks_are_confirmed():
    rows = datasets.Dataset.from_dict({"doubt": [None, "TokenCut finds another object", None]})
    assert confirmed(rows).tolist() == [True, False, True]
    assert confirmed(rows.rename_column("doubt", "note")).tolist() == [True] * 3


def test_a_background_remover(monkeypatch, tmp_path):
    """Foreground is what it is at least half sure of; a file is one of ISNet."""
    opened: list = []

    class Session:
        def predict(self, img: Image.Image) -> list[Image.Image]:
            return [Image.linear_gradient("L").resize(img.size, Image.Resampling.NEAREST)]

    def new_session(name: str, **settings) -> Session:
        opened.append((name, settings))
        return Session()

    with pytest.raises(ValueError, match="`u2nett` cannot be used as a model of rembg"):
        background_remover("u2nett")
    monkeypatch.setattr(rembg, "new_session", new_session)
    masks = background_remover("isnet-general-use")([Image.new("RGB", (8, 256))], [{}])
    assert np.array_equal(np.asarray(masks[0].mask) > 0, np.repeat(np.arange(256)[:, None] > 127, 8, axis=1))
    assert opened == [("isnet-general-use", {})]
    (tmp_path / "damaged.onnx").write_bytes(b"cut off")
    for name in ("isnet.onnx", "damaged.onnx"):  # opened by ONNX Runtime, wherever it lies
        with pytest.raises(ValueError, match=rf"{name}` cannot be used as .* ISNet: .*{name} failed"):
            background_remover(str(tmp_path / name))
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(ImportError, match="rembg"):
        background_remover("isnet-general-use")
