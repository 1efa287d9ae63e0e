"""`pipeline("relevance-map")` on files and images, and where its maps lie in them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DonutImageProcessor, TimmWrapperImageProcessor, ViTImageProcessor, pipeline

from robust_vit_hf import make_image_processor, relevance_map
from robust_vit_hf.data.transforms import place_in_image
from robust_vit_hf.relevance.layer_cam import layer_cam

from ..helpers.architectures import WITHOUT_MAP
from ..helpers.layouts import save
from ..helpers.tiny import IMAGE_SIZE, masked_rows, tiny_vit


@pytest.fixture
def model():
    return tiny_vit(id2label=dict(enumerate("abca")), label2id={"a": 0, "b": 1, "c": 2})


def images(count: int) -> list[Image.Image]:
    return [row["image"].resize((60, 40)) for row in masked_rows(count)]


def test_a_turned_photograph_is_turned_back(model, processor, tmp_path):
    save(images(1)[0], tmp_path / "turned.jpg", orientation=6)
    answer = pipeline("relevance-map", model=model, image_processor=processor)(str(tmp_path / "turned.jpg"))
    assert answer["relevance"].size == (40, 60)


def test_answers(model, processor):
    explain = pipeline("relevance-map", model=model, image_processor=processor)
    (image,) = images(1)
    answer = explain(image)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    output = relevance_map(model, pixel_values)
    probabilities = output.logits.softmax(1)[0]
    assert set(answer) == {"label", "score", "relevance"}
    assert answer["label"] == "abca"[probabilities.argmax()]
    assert answer["score"] == pytest.approx(probabilities.max().item())
    assert answer["relevance"].size == (60, 40) and answer["relevance"].mode == "L"
    assert np.asarray(answer["relevance"])[:, 10:50].max() > 200

    for target in (1, "b"):
        answer = explain(image, target=target, overlay=True)
        assert answer["label"] == "b" and answer["score"] == pytest.approx(probabilities[1].item())
        assert answer["overlay"].size == (60, 40) and answer["overlay"].mode == "RGB"
    expected = place_in_image(relevance_map(model, pixel_values, 1).relevance[0, 0], (60, 40), processor)
    assert np.array_equal(np.asarray(answer["relevance"]), np.asarray(expected))
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, model, processor):
    explain = pipeline("relevance-map", model=model.to(dtype), image_processor=processor)
    answer = explain(images(1)[0], target=1)
    assert 0 < answer["score"] < 1 and np.asarray(answer["relevance"]).max() > 100


def test_arguments_of_the_pipeline_itself(model, processor):
    explain = pipeline("relevance-map", model=model, image_processor=processor, target="b", overlay=True)
    answer = explain(images(1)[0])
    assert answer["label"] == "b" and "overlay" in answer
    answer = explain(images(1)[0], target="c", overlay=False)
    assert answer["label"] == "c" and "overlay" not in answer


def test_batches_and_files(model, processor, hub, tmp_path):
    """A list in batches gives what each image gives alone, and paths and URLs what images give."""
    explain = pipeline("relevance-map", model=model, image_processor=processor)
    pictures = [*images(3), masked_rows(4, seed=1)[3]["image"]]  # of different sizes
    paths = []
    for index, picture in enumerate(pictures):
        paths.append(str(tmp_path / f"{index}.png"))
        picture.save(paths[-1])
    alone = [explain(picture, overlay=True) for picture in pictures]
    hub.repos["models", "user/pictures"] = {path[-5:]: Path(path).read_bytes() for path in paths}
    paths[1] = f"{hub.url}/user/pictures/resolve/main/1.png"
    for answers in (explain(paths, overlay=True), explain(pictures, overlay=True, batch_size=3)):
        for answer, expected, picture in zip(answers, alone, pictures, strict=True):
            assert answer["label"] == expected["label"]
            assert answer["score"] == pytest.approx(expected["score"], rel=1e-4)
            for name in ("relevance", "overlay"):
                assert answer[name].size == picture.size
                difference = np.abs(np.asarray(answer[name]).astype(int) - np.asarray(expected[name]).astype(int))
                assert difference.max() <= 2  # the colours of an overlay change faster than its map


@pytest.mark.parametrize("size", [(60, 40), (40, 64), (300, 200)])
@pytest.mark.parametrize(
    "processor",
    [
        make_image_processor("paper", 224),
        make_image_processor("paper", (224, 160)),
        ViTImageProcessor(size={"height": 224, "width": 224}),
        ViTImageProcessor(size={"shortest_edge": 160}, do_center_crop=True, crop_size={"height": 224, "width": 224}),
        ViTImageProcessor(do_resize=False, do_center_crop=True, crop_size={"height": 176, "width": 176}),
        TimmWrapperImageProcessor({"input_size": [3, 224, 224], "crop_pct": 0.8, "mean": [0] * 3, "std": [1] * 3}),
        DonutImageProcessor(size={"height": 224, "width": 224}, do_normalize=False),
    ],
    ids=["crop", "rectangle", "squash", "padded", "not resized", "timm", "padded to a square"],
)
def test_place(size, processor):
    """A square of the image that a map shows lies where it lay in the image."""
    width, height = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    square = (slice(height // 3, height // 3 + height // 3), slice(width // 3, width // 3 + width // 4))
    image[square] = 255
    settings = {"do_normalize": False} if isinstance(processor, ViTImageProcessor) else {}
    pixels = processor(Image.fromarray(image), return_tensors="pt", **settings)["pixel_values"][0, 0]
    found = np.asarray(place_in_image(pixels, size, processor)) > 127
    expected = image[..., 0] > 127
    assert (found & expected).sum() / (found | expected).sum() > 0.85


def test_outside_the_crop_is_black(processor):
    relevance = np.asarray(place_in_image(torch.ones(IMAGE_SIZE, IMAGE_SIZE), (80, 40), processor))
    assert relevance[:, :20].max() == 0 and relevance[:, -20:].max() == 0  # 36 of 37 pixels are the crop's height
    assert relevance[10:30, 30:50].min() == 255


def test_no_images(model, processor):
    assert pipeline("relevance-map", model=model, image_processor=processor)([]) == []


def test_refused(model, processor, monkeypatch):
    explain = pipeline("relevance-map", model=model, image_processor=processor)
    with pytest.raises(ValueError, match="`a` names 2 classes of the model"):
        explain(images(1)[0], target="a")
    with pytest.raises(TypeError, match="top_k"):
        explain(images(1)[0], top_k=2)
    with pytest.raises(ValueError, match="Expected `target`"):
        explain(images(1)[0], target=4)
    with monkeypatch.context() as patched, pytest.raises(ValueError, match="400×1 pixels would be resized"):
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
        explain(Image.new("RGB", (400, 1)))


def test_layer_cam_has_its_own_key(processor):
    model, (image,) = WITHOUT_MAP["ConvNeXt"].tiny(), images(1)
    answer = pipeline("relevance-map", model=model, image_processor=processor)(image, target=2)
    assert set(answer) == {"label", "score", "layercam"}
    cam = layer_cam(model, processor(image, return_tensors="pt")["pixel_values"], 2).relevance[0, 0]
    expected = place_in_image(cam, (60, 40), processor)
    assert np.array_equal(np.asarray(answer["layercam"]), np.asarray(expected)) and np.asarray(expected).any()
