"""Masks by SAM 3, with a real but tiny model of random weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

from robust_vit_hf.masks.by_names import ConceptSegmentation, concepts
from robust_vit_hf.masks.options import Sam3Options

from ..helpers.commands import call, succeed
from ..helpers.tiny import masked_dataset, save_pretrained, tiny_vit, word_tokenizer
from .test_grounded import images


WORDS = ["<unk>", "<start>", "<end>", "tench", "shark", "great", "white", "object", "a", "b", "c", "d"]


def make_sam3() -> tuple[Sam3Model, Sam3Processor]:
    torch.manual_seed(0)
    width = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    backbone = width | {"num_hidden_layers": 2, "image_size": 56, "patch_size": 14, "pretrain_image_size": 56}
    backbone |= {"model_type": "sam3_vit_model", "window_size": 2, "global_attn_indexes": [1]}
    text = width | {"model_type": "clip_text_model", "vocab_size": len(WORDS)}
    text |= {"num_hidden_layers": 1, "max_position_embeddings": 32}
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config=text | {"projection_dim": 16, "eos_token_id": 2},
        geometry_encoder_config=width | {"num_layers": 1},
        detr_encoder_config=width | {"num_layers": 1},
        detr_decoder_config=width | {"num_layers": 1, "num_queries": 4},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    model = Sam3Model(config).eval()
    with torch.no_grad():  # so large that the scores depend on the words
        for name, parameter in model.named_parameters():
            if "dot_product_scoring" in name or "text" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    processor = Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    return model, Sam3Processor(processor, word_tokenizer(WORDS))


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    """SAM 3 with random weights, as the Hub has it."""
    folder = tmp_path_factory.mktemp("sam3")
    for part in make_sam3():
        part.save_pretrained(folder)
    return str(folder)


IMAGES, PROMPTS = images()[:2], {0: ["Tench"], 1: ["great white shark"]}.get


def test_concepts_fall_back_to_the_last_word_and_to_an_object():
    assert concepts(["Great white shark", "tench"]) == ["great white shark", "tench", "shark", "object"]


def test_masks_are_the_union_of_the_instances(sam3):
    """As the model and its processor give them for one image and one text, without the shared features."""
    cut = ConceptSegmentation.from_pretrained(PROMPTS, sam3, threshold=0.1)
    results = cut(IMAGES, [{"label": 0}, {"label": 1}])
    for image, result, text in zip(IMAGES, results, ("tench", "great white shark"), strict=True):
        inputs = cut.processor(images=image, text=text, return_tensors="pt")
        with torch.no_grad():
            output = cut.model(**inputs)
        size = [(image.height, image.width)]
        (found,) = cut.processor.post_process_instance_segmentation(output, 0.1, target_sizes=size)
        union = found["masks"].bool().any(dim=0).numpy()
        assert union.any() and np.array_equal(np.asarray(result.mask) == 255, union)
        assert result.note.startswith(f"{text!r}, {len(found['scores'])} of it, {found['scores'].max():.2f}, present ")
        assert result.rejected is None


def test_a_checkpoint_that_names_the_processor_for_videos(sam3, tmp_path):
    shutil.copytree(sam3, tmp_path / "model")
    path = tmp_path / "model" / "processor_config.json"
    path.write_text(path.read_text().replace('"Sam3Processor"', '"Sam3VideoProcessor"'))
    assert "Sam3VideoProcessor" in path.read_text()
    cut = ConceptSegmentation.from_pretrained(PROMPTS, str(tmp_path / "model"), threshold=0.0)
    assert len(cut(IMAGES, [{"label": 0}, {"label": 1}])) == 2


def test_nothing_is_found_for_the_first_concepts(sam3):
    """The first concept above the threshold is taken, and its note names those before it."""

    def found(names, threshold):
        (result,) = ConceptSegmentation.from_pretrained({0: names}.get, sam3, threshold=threshold)(
            IMAGES[:1], [{"label": 0}]
        )
        return result

    scores = {
        name: float(found([name], 0.0).note.split(", ")[2]) for name in ("tench", "shark", "great", "white", "object")
    }
    low, high = min(scores, key=scores.get), max(scores, key=scores.get)
    threshold = (scores[low] + scores[high]) / 2
    assert scores[high] - scores[low] > 0.005, "the random weights tell no words apart"
    result = found([low, high], threshold)
    assert result.note.startswith(f"{high!r}, ") and result.note.endswith(f"; nothing for {low!r}")
    assert ";" not in found([high, low], threshold).note  # the first is enough
    nothing = found(["great white shark"], 1.0)
    assert nothing.mask is None and nothing.rejected == "nothing for 'great white shark', 'shark', 'object' above 1.0"


@pytest.mark.slow
def test_auto_takes_the_first_that_is_there(sam3, tmp_path, monkeypatch, caplog):
    """SAM 3 where its model is there, and what was taken is said and recorded; else DINOv2-S, since nothing else can be loaded here."""
    data = masked_dataset(8).remove_columns("mask")
    data.to_parquet(tmp_path / "data" / "validation-00000.parquet")
    model = save_pretrained(tiny_vit(), tmp_path / "model", "paper")
    options = ["--model", model, "--dataset", tmp_path / "data", "--masks", "auto"]

    def masks_of(name):
        succeed("diagnose", *options, "--output_dir", tmp_path / name)
        return json.loads((tmp_path / name / "results.json").read_text())["masks"]

    with monkeypatch.context() as patched:
        defaults = Sam3Options.__init__.__kwdefaults__ | {"model": sam3, "threshold": 0.01}
        patched.setattr(Sam3Options.__init__, "__kwdefaults__", defaults)
        loaded, load = [], Sam3Model.from_pretrained
        patched.setattr(Sam3Model, "from_pretrained", lambda name: loaded.append(name) or load(name))
        assert masks_of("first") == "made by sam3" and loaded == [sam3]
        assert masks_of("first") == "made by sam3"  # those that are there
    # All of these masks are rejected, since the images are noise.
    assert call("diagnose", *options, "--output_dir", tmp_path / "second").status == 1
    assert "Masks are made by `dinov2`" in caplog.text
