"""`robust-vit improve` of models that are no plain ViT: swap alone, from a folder and from an object."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from robust_vit_hf import improve, load_model, make_image_processor
from robust_vit_hf.improvement.candidates import INTERPOLATION_WEIGHTS
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.models.loading import weights_digest

from ..diagnosis.test_any_classifier import of_timm, resnet
from ..helpers.commands import succeed
from ..helpers.tiny import masked_folder, tiny_vit
from .conftest import CLASSES, OBJECT, with_masks, write_photographs


pytestmark = pytest.mark.usefixtures("better", "datasets_cache", "undrawn")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Photographs, and a ResNet with batch norms that was trained on their backgrounds."""
    root = tmp_path_factory.mktemp("own")
    write_photographs(root / "photos", "train", 6, seed=0)
    write_photographs(root / "photos", "validation", 8, seed=1)
    resnet(root / "model")
    processor = AutoImageProcessor.from_pretrained(root / "model")
    model = AutoModelForImageClassification.from_pretrained(root / "model").train()
    model.config.id2label, model.config.label2id = {label: name for name, label in CLASSES.items()}, CLASSES
    paths = sorted((root / "photos" / "train").rglob("*.jpg"))
    pixels = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    labels = torch.tensor([CLASSES[path.parent.name] for path in paths])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(40):
        torch.nn.functional.cross_entropy(model(pixels).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(root / "model")
    return root


def test_a_folder_and_an_object_become_the_same_model(inputs, tmp_path, monkeypatch):
    """By swap alone, whose candidates keep the statistics of the batch norms. The object, which is frozen and in fp64,
    stays as it is."""
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-1])
    options = [*with_masks(inputs, tmp_path, {".": OBJECT}), "--learning_rate", 3e-4]
    masks, folders = tmp_path / "masks", [tmp_path / name for name in ("out", "object")]
    succeed("improve", *options)
    model = AutoModelForImageClassification.from_pretrained(inputs / "model").double().requires_grad_(False)
    before = weights_digest(model)
    settings = {"max_steps": 30, "learning_rate": 3e-4, "train_batch_size": 4, "seed": 3, "effort": "full"}
    processor = AutoImageProcessor.from_pretrained(inputs / "model")
    result = improve(model, str(inputs / "photos"), folders[1], processor=processor, masks=str(masks), **settings)
    assert weights_digest(model) == before
    one, two = (json.loads((folder / "verdict.json").read_text()) for folder in folders)
    assert one == two and result.key == one["outcome"]
    before_and_after = [found.measures for found in result.diagnosis.diagnoses.values()]
    assert before_and_after[0]["original"].mean > 0.8
    assert before_and_after[1]["mixed_rand"].mean > before_and_after[0]["mixed_rand"].mean
    tables = [(folder / "candidates.md").read_text() for folder in folders]
    assert tables[0] == tables[1] and tables[0].count("| finetuned by swap") == len(INTERPOLATION_WEIGHTS)
    assert "relevance" not in tables[0] and tables[0].count("| chosen |") == 1
    models = [load_model(str(folder)) for folder in folders]
    assert weights_digest(models[0]) == weights_digest(models[1]) != before
    kept = dict(model.named_buffers())
    assert all(torch.equal(value, kept[name].to(value.dtype)) for name, value in models[0].named_buffers())
    card = (folders[1] / "README.md").read_text()
    assert "finetuned on images with swapped backgrounds" in card and "began with a new last layer, fitted to" in card
    assert one["verdict"].partition(":")[0] in card


def test_a_model_of_timm_ends_as_one(tmp_path, monkeypatch):
    """With its preprocessing, which is in its `config.json`."""
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-2])
    of_timm(tmp_path / "model", input_size=[3, 32, 32])
    photos = masked_folder(tmp_path / "photos", 8, 16)
    options = {"max_steps": 2, "learning_rate": 1e-2, "train_batch_size": 4, "effort": "full"}
    model, processor = (
        of.from_pretrained(tmp_path / "model") for of in (AutoModelForImageClassification, AutoImageProcessor)
    )
    improve(model, str(photos), tmp_path / "out", processor=processor, **options)
    before, after = (load_model(str(tmp_path / name)) for name in ("model", "out"))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert weights_digest(after) == run["weights"] != weights_digest(before) and type(after) is type(before)
    own, saved = (AutoImageProcessor.from_pretrained(tmp_path / name).to_dict() for name in ("model", "out"))
    assert saved == own and saved["data_config"]["input_size"] == (3, 32, 32)


def test_what_cannot_be_trained_is_refused_before_images_are_read(inputs, tmp_path):
    with pytest.raises(ValueError, match="A `function` cannot be trained: give a model of transformers"):
        improve(lambda images: images, "nothing", tmp_path / "out")
    model = AutoModelForImageClassification.from_pretrained(inputs / "model")
    with pytest.raises(ValueError, match="transformers needs processor"):
        improve(model, "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_image_of_a_step_needs_pictures(tmp_path):
    options = {"model": "model", "dataset": "photos", "output_dir": tmp_path / "out", "train_batch_size": 1}
    assert ImproveOptions(**options, backgrounds="pictures").backgrounds == "pictures"
    with pytest.raises(ValueError, match=r"--train_batch_size 1 .*: give 2 or more, or --backgrounds"):
        ImproveOptions(**options)


def test_a_model_that_could_not_be_loaded_again_is_refused_first(tmp_path):
    other = torch.nn.Linear(24, 4, bias=False), torch.nn.Linear(24, 5), torch.nn.Sequential(torch.nn.Linear(24, 4))
    for change in other:
        model = tiny_vit()
        model.classifier = change
        with pytest.raises(ValueError, match=r"could not be loaded.*`classifier"):
            improve(model, "photographs", tmp_path / "out", processor=make_image_processor("paper", 32))
    own = type("Own", (type(model),), {})(model.config)
    with pytest.raises(ValueError, match="this `Own` would be loaded as a `ViTForImageClassification`"):
        improve(own, "photographs", tmp_path / "out", processor=make_image_processor("paper", 32))
    assert not (tmp_path / "out").exists()
