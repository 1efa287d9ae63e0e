"""Objects on other backgrounds, in the page of `robust-vit app`."""

import re
import shutil

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image

from robust_vit_hf import make_image_processor
from robust_vit_hf.app import pictures as shown
from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.page import Handlers
from robust_vit_hf.app.pictures import PHOTOGRAPHS, find_mask, other_backgrounds, picture_of, read_diagnosis
from robust_vit_hf.app.server import running
from robust_vit_hf.data.transforms import eval_transform
from robust_vit_hf.masks.choose_mask_maker import MaskSettings

from ..helpers.layouts import bright_square, save
from ..helpers.tiny import PRETRAINING, tiny_vit
from .conftest import open_pair


@pytest.fixture(scope="module")
def of_diagnosis(models, diagnosed):
    with running(AppOptions(model=models[0], compare=models[1], diagnose=diagnosed)) as address:
        yield Client(address, verbose=False)


def test_a_diagnosis_of_others_is_refused(models, diagnosed, tmp_path):
    with pytest.raises(ValueError, match="is of other models"):
        read_diagnosis(diagnosed, open_pair(models[1], models[0], "paper"))
    with pytest.raises(ValueError, match="is of other models"):
        read_diagnosis(diagnosed, open_pair(models[0], None, "paper"))
    shutil.copytree(diagnosed, tmp_path / "improved" / "diagnosis")
    assert len(read_diagnosis(tmp_path / "improved", open_pair(*models, "paper")).examples) == 24


def test_of_two_models_one_makes_an_image_of_a_kind():
    before, after = (dict.fromkeys(shown.CONDITIONS, best) for best in ("cow", "ship"))
    found = shown.Diagnosed("", [shown.Composed("cow", "boat", {}, {"before": before, "after": after})])
    assert [found.order(kind) for kind in shown.KINDS] == [[0], [], [0], []]


def test_an_oblong_image_on_other_backgrounds(tmp_path):
    wide = tmp_path / "wide"
    for part in (tiny_vit(), make_image_processor("paper", (32, 48))):
        part.save_pretrained(wide)
    handlers = Handlers(AppOptions(model=str(wide), compare=str(wide)))
    _, pictures, _ = handlers.on_backgrounds(str(save(bright_square(), tmp_path / "square.png")))
    assert len(pictures) == 1 + len(PHOTOGRAPHS)
    assert not any(background.classes for background in other_backgrounds(handlers.session, None))


def test_an_object_on_other_backgrounds(models, diagnosed, of_diagnosis, tmp_path):
    """As the models see it, composed once more."""
    path = save(bright_square(), tmp_path / "square.png")
    masked, pictures, text = of_diagnosis.predict(handle_file(path), api_name="/backgrounds")
    session = open_pair(*models, None)
    image, mask = Image.open(path), find_mask(MaskSettings().of_features()[2], Image.open(path))
    inside = np.asarray(mask) > 0
    assert inside[32:64, 32:64].mean() > 0.8 and inside.mean() < 0.4
    assert np.asarray(Image.open(masked).convert("RGB"))[0, 0].min() > 150, "the background is not dimmed"
    found = read_diagnosis(diagnosed, session)
    backgrounds = other_backgrounds(session, found)
    assert len(backgrounds) == 5 and {one.name for one in backgrounds[:4]} == {one.label for one in found.examples}
    captions = [picture["caption"] for picture in pictures]
    assert len(captions) == 6
    row = eval_transform(session.sides["before"].processor)({"image": [image], "mask": [mask]})
    mean, std = (torch.tensor(of)[:, None, None] for of in (PRETRAINING.image_mean, PRETRAINING.image_std))
    other = (torch.from_numpy(np.asarray(backgrounds[2].picture, np.float32)).movedim(2, 0) / 255 - mean) / std
    weight = row["mask"][0]
    composed = weight * row["pixel_values"][0] + (1 - weight) * other
    changed = {}
    for side, of in session.sides.items():
        with torch.no_grad():
            scores, best = of.model(composed[None]).logits.softmax(dim=1)[0].max(dim=0)
        assert f"{side}: {session.classes[best]} {scores:.0%}" in captions[3]
        shown = [re.search(rf"{side}: (\S+) ", caption)[1] for caption in captions]
        changed[side] = sum(name != shown[0] for name in shown)
    assert text.endswith(f"before: {changed['before']} of 5 · after: {changed['after']} of 5.")


def test_a_narrow_picture_keeps_a_pixel():
    assert picture_of(Image.new("RGB", (3000, 2))).size == (512, 1)
    assert picture_of(Image.new("RGB", (30, 20))).size == (512, 341)


def test_where_no_object_is_found(of_diagnosis, tmp_path):
    Image.new("RGB", (2000, 1)).save(tmp_path / "line.png")
    with pytest.raises(Exception, match="No object was found: "):
        of_diagnosis.predict(handle_file(tmp_path / "line.png"), api_name="/backgrounds")
