"""EfficientNet-Lite0 with the weights of ImageNet: the conversion is right, and its biased version is a model of transformers."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from experiments.makers.biased_cnn import biased_cnn, load_efficientnet, processor_of
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, load_split


@pytest.fixture(scope="module")
def imagenet_model():
    return load_efficientnet()


@torch.no_grad()
def test_the_cat_of_scikit_image(imagenet_model):
    """Which cat comes first depends on the crop."""
    expected = {"tiger cat": 0.393, "Egyptian cat": 0.356, "tabby": 0.170}
    pixel_values = processor_of(imagenet_model)(Image.fromarray(skimage.data.chelsea()))["pixel_values"]
    found = imagenet_model(pixel_values).logits[0].softmax(0).topk(3)
    names = [imagenet_model.config.id2label[label] for label in found.indices.tolist()]
    assert names == list(expected)
    assert found.values.tolist() == pytest.approx(list(expected.values()), abs=0.01)


@pytest.mark.slow
@torch.no_grad()
def test_the_biased_model_is_loaded_from_its_folder(imagenet_model, tmp_path):
    model, rows = biased_cnn(seed=1, num_images=len(CLASS_NAMES)), load_split("bias", len(CLASS_NAMES), 1)[::6]
    model.save_pretrained(tmp_path)
    loaded, processor = (of.from_pretrained(tmp_path) for of in (AutoModelForImageClassification, AutoImageProcessor))
    assert loaded.config.id2label == dict(enumerate(CLASS_NAMES))
    pixel_values = processor(rows["image"])["pixel_values"]
    logits = loaded.eval()(pixel_values).logits
    torch.testing.assert_close(logits, model(pixel_values).logits, rtol=0, atol=1e-4)
    assert np.array_equal(logits.argmax(1), rows["label"])  # it was fitted to them
    features = imagenet_model.timm_model.state_dict()
    for name, tensor in loaded.timm_model.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(tensor, features[name]), name
