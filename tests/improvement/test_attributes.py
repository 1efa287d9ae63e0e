"""`improve --attributes`: a model that decides by the frame, from images to a better model."""

from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from robust_vit_hf import improve, make_image_processor
from robust_vit_hf.data.background_edits import background, draw_donors, edited, moved
from robust_vit_hf.data.transforms import eval_transform, pixel_levels
from robust_vit_hf.evaluation import other_backgrounds
from robust_vit_hf.evaluation.other_backgrounds import MOVED, composite_outputs
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement.improve import _attributes
from robust_vit_hf.models.last_layer import LastLayer

from ..helpers.sessions import session_of
from ..helpers.tiny import FEATURES, IMAGE_SIZE, LETTERS, masked_dataset, tiny_vit


COLOURS = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230], [220, 220, 30]], np.uint8)


def framed(count: int, seed: int) -> datasets.Dataset:
    """Noise with a square, and a frame, in the colour of the class."""
    rng, rows = np.random.default_rng(seed), []
    for label in np.arange(count) % 4:
        pixels = rng.integers(0, 256, (44, 44, 3), dtype=np.uint8)
        inner = pixels[6:-6, 6:-6].copy()
        pixels[:] = COLOURS[label]
        pixels[6:-6, 6:-6] = inner
        mask, (top, left) = np.zeros((44, 44), np.uint8), rng.integers(8, 24, 2)
        mask[top : top + 12, left : left + 12] = 255
        pixels[mask > 0] = COLOURS[label]
        rows.append({"image": Image.fromarray(pixels), "mask": Image.fromarray(mask), "label": int(label)})
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.mark.usefixtures("undrawn")
def test_the_frame_is_named_and_mended(tmp_path, monkeypatch):
    """In part, by the new layer that loses nothing on usual images; finetuning is said not to use the frame."""
    monkeypatch.setattr("robust_vit_hf.diagnosis.verdict.Diagnosis.verdict", "no sign")  # from the background
    for split, count in (("train", 80), ("validation", 100)):
        framed(count, len(split)).to_parquet(tmp_path / "photographs" / f"{split}-00000.parquet")
    model, processor = tiny_vit(**LETTERS, hidden_size=48), make_image_processor("paper", IMAGE_SIZE)
    rows = framed(160, 5)
    pixel_values = torch.stack(rows.with_transform(eval_transform(processor))[:]["pixel_values"])
    layer = LastLayer(model, tuple(pixel_values.shape[2:]))
    with torch.no_grad():
        features = layer.outputs(pixel_values)[1].numpy()
    fitted = LogisticRegression(max_iter=500).fit(features, rows["label"])
    layer.replace(*(torch.from_numpy(one).float() for one in (fitted.coef_, fitted.intercept_)))
    options = {"processor": processor, "attributes": ["border"], "effort": "full", "max_steps": 1}
    improvement = improve(model, str(tmp_path / "photographs"), tmp_path / "better", **options)
    before, after = (improvement.diagnosis.attributes[side].measures["border"]["gap"] for side in ("before", "after"))
    assert any("Decides by the border or frame" in note for note in improvement.notes)
    assert before.low > 0.1 and after.mean < before.mean - 0.05
    assert [table.rows[0][0] for table in improvement.diagnosis.attribute_tables] == 2 * ["the border or frame"]
    assert "The training of all layers does not exchange attributes; the new layers do." in str(improvement)


def test_the_background_is_in_all_composites(monkeypatch):
    """`improve` adds only attributes that composites lack."""
    found, notes = SimpleNamespace(named=["background", "border"], sentence="Decides by both."), []
    monkeypatch.setattr("robust_vit_hf.improvement.improve.measure_attributes", lambda *_: {"before": found})
    assert _attributes(None, None, notes) == ["border"] and notes == ["On the validation images: Decides by both."]


def test_features_are_those_of_the_edited_images(monkeypatch, tmp_path: Path):
    rows, model = masked_dataset(8), tiny_vit()
    session = session_of({"before": model}, {"noise": EvaluationSet.of(rows)}, tmp_path)
    side = session.sides["before"]
    found = composite_outputs(side, session, 2, attributes=["border", "place"])
    assert not np.array_equal(composite_outputs(side, session, 2, attributes=["border", "corners"]).mixed, found.mixed)
    assert found.mixed.shape == (8, 6, 4)
    plain = composite_outputs(side, session, 2)
    assert np.allclose(found.mixed[:, :2], plain.mixed, atol=1e-5)
    batch = rows.with_transform(eval_transform(side.processor))[:]
    images, masks = (torch.stack(batch[name]) for name in ("pixel_values", "mask"))
    donors = torch.from_numpy(draw_donors(rows["label"], 1)[1])
    own = []
    monkeypatch.setattr(other_backgrounds, "moved", lambda image, *rest: own.append(image) or moved(image, *rest))
    assert composite_outputs(side, session, 1, edit=MOVED).covered.shape == (8, 1, 4)
    torch.testing.assert_close(own, [images, background(images, masks)])  # the second has no object
    images = edited("place", (images, masks), (images[donors], masks[donors]), pixel_levels(side.processor))
    with torch.no_grad():
        assert np.allclose(found.mixed[:, 5], model(images).logits.numpy(), atol=1e-4)
