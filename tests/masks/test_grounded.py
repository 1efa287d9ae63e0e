"""Masks from names: those of the classes, or of a file, and real but tiny models: Grounding DINO on a Swin and a BERT, SAM and SAM 2,
all with random weights."""

import json

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from robust_vit_hf.masks.by_names import GroundedSegmentation, prompt_text, prompts_of_labels

from ..helpers.commands import call
from ..helpers.tiny import masked_dataset


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "tench", "head", "tail", "dog"]
PROMPTS = {0: ["Tench"], 1: ["head", "tail"]}.get


def make_models():
    """Detector, its processor, segmenter, its processor."""
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], out_indices=[2, 3, 4], window_size=4
    )
    text = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    layers = {
        f"{part}_{setting}": value
        for part in ("encoder", "decoder")
        for setting, value in {"layers": 2, "attention_heads": 2, "ffn_dim": 32}.items()
    }
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, num_queries=8, **layers
    )
    small = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 32}
    sam = transformers.SamConfig(
        vision_config=small
        | {"num_hidden_layers": 1, "image_size": 64, "output_channels": 16, "num_pos_feats": 8}
        | {"window_size": 0, "global_attn_indexes": [0]},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config=small | {"num_hidden_layers": 1, "iou_head_hidden_dim": 16},
        initializer_range=0.5,
    )
    return (
        transformers.GroundingDinoForObjectDetection(config).eval(),
        transformers.GroundingDinoProcessor(
            transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
            transformers.BertTokenizer({word: index for index, word in enumerate(VOCABULARY)}),
        ),
        transformers.SamModel(sam).eval(),
        transformers.SamProcessor(
            transformers.SamImageProcessor(
                size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
            )
        ),
    )


# Of SAM 2.
HIERA = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 1, 1],
    "embed_dim_per_stage": [8, 16, 24, 32],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [4, 4, 4, 2],
    "window_positional_embedding_background_size": [4, 4],
    "global_attention_blocks": [],
}
PARTS = {
    "vision_config": {
        "backbone_config": HIERA,
        "backbone_channel_list": [32, 24, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "mask_input_channels": 4},
    "mask_decoder_config": {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 32, "num_hidden_layers": 1}
    | {"iou_head_hidden_dim": 16},
    "initializer_range": 0.5,
}


def make_models_with_sam_2():
    """As [`make_models`]."""
    torch.manual_seed(0)
    processor = transformers.Sam2ImageProcessor(
        size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}
    )
    return (
        *make_models()[:2],
        transformers.Sam2Model(transformers.Sam2Config(**PARTS)).eval(),
        transformers.Sam2Processor(processor),
    )


@pytest.fixture(scope="module", params=[make_models, make_models_with_sam_2], ids=["SAM", "SAM 2"])
def models(request):
    return request.param()


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(50, 70), (80, 40), (33, 57)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


ROWS = [{"label": 0}, {"label": 1}, {"label": 0}]


@torch.no_grad()
def detect(models, image, text) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and boxes of all queries, in pixels, by the definition."""
    detector, processor = models[:2]
    output = detector(**processor(images=image, text=text, return_tensors="pt"))
    x, y, width, height = output.pred_boxes[0].unbind(-1)
    boxes = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)
    return output.logits[0].sigmoid().amax(dim=-1), boxes * torch.tensor([image.width, image.height] * 2)


@torch.no_grad()
def segment(models, image, box) -> np.ndarray:
    """SAM's best mask for one box."""
    segmenter, processor = models[2:]
    inputs = processor(image, input_boxes=[[box.tolist()]], return_tensors="pt")
    output = segmenter(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float())
    if isinstance(segmenter, transformers.SamModel):
        (masks,) = processor.post_process_masks(
            output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
    else:
        (masks,) = processor.post_process_masks(output.pred_masks, inputs["original_sizes"])
    return masks[0, output.iou_scores[0, 0].argmax()].numpy()


@pytest.mark.parametrize(
    "names, text",
    [
        (["tench"], "tench ."),
        (["Golden Retriever"], "golden retriever ."),
        (["head", " tail\n"], "head . tail ."),
        (["St. Bernard"], "st bernard ."),
    ],
)
def test_prompt(names, text):
    assert prompt_text(names) == text


def test_the_mask_is_the_union_over_the_boxes_above_the_threshold(models):
    image = images()[0]
    scores, boxes = detect(models, image, "tench .")
    order = scores.argsort(descending=True)
    threshold = scores[order[2:4]].mean().item()  # three boxes are above it
    singles = [segment(models, image, boxes[index]) for index in order[:3]]
    expected = np.logical_or.reduce(singles)
    assert 0 < expected.mean() < 1 and any((single != expected).any() for single in singles)  # or it tests nothing

    (result,) = GroundedSegmentation(*models, PROMPTS, box_threshold=threshold)([image], ROWS[:1])
    np.testing.assert_array_equal(np.asarray(result.mask), 255 * expected.astype(np.uint8))
    noted = sorted((float(part.rpartition(" ")[2]) for part in result.note.split(",")), reverse=True)
    assert noted == pytest.approx(scores[order[:3]].tolist(), abs=0.006)
    assert result.rejected is None


def test_results_keep_the_order_and_do_not_depend_on_the_batch(models):
    make = GroundedSegmentation(*models, PROMPTS, box_threshold=0.0)
    results = make(images(), ROWS)
    assert [result.mask.size for result in results] == [image.size for image in images()]
    assert all(result.mask.mode == "L" and set(np.unique(result.mask)) <= {0, 255} for result in results)
    alone = [make([image], [row])[0] for image, row in zip(images(), ROWS, strict=True)]
    backwards = make(images()[::-1], ROWS[::-1])[::-1]
    for result, single, other in zip(results, alone, backwards, strict=True):
        assert result.mask.tobytes() == single.mask.tobytes() == other.mask.tobytes()
        assert result.note == single.note == other.note
    assert len({result.note for result in results}) == 3


def test_parts_are_looked_for_together(models):
    image = images()[1]
    scores, _ = detect(models, image, "head . tail .")
    other, _ = detect(models, image, "head .")
    assert not torch.allclose(scores, other)
    (result,) = GroundedSegmentation(*models, PROMPTS, box_threshold=0.0)([image], [{"label": 1}])
    noted = [float(part.rpartition(" ")[2]) for part in result.note.split(",")]
    assert noted == pytest.approx(scores.tolist(), abs=0.006)


def test_boxes_without_foreground_are_rejected(models):
    detector, detector_processor, segmenter, segmenter_processor = models
    empty = type(segmenter)(segmenter.config).eval()
    for network in empty.mask_decoder.output_hypernetworks_mlps:
        torch.nn.init.zeros_(network.proj_out.weight)
        torch.nn.init.zeros_(network.proj_out.bias)
    make = GroundedSegmentation(detector, detector_processor, empty, segmenter_processor, PROMPTS, box_threshold=0.0)
    (result,) = make(images()[:1], ROWS[:1])
    assert result.rejected == "SAM found nothing in the boxes" and not np.asarray(result.mask).any()


@pytest.mark.parametrize("row", [{"label": 7}, {"file_name": "a.jpg"}])
def test_labels_without_a_prompt_are_refused(models, row):
    with pytest.raises(ValueError, match="no prompt for the label"):
        GroundedSegmentation(*models, PROMPTS)(images()[:1], [row])


def test_the_folder_that_facebook_publishes_sam_2_as(tmp_path):
    """It is that of the model for videos, of which the part for images is loaded."""
    detector, detector_processor, _, processor = make_models_with_sam_2()
    for part in (detector, detector_processor):
        part.save_pretrained(tmp_path / "detector")
    sizes = {"memory_attention_hidden_size": 16, "memory_attention_feed_forward_hidden_size": 16}
    sizes |= {"memory_attention_num_layers": 1, "memory_encoder_hidden_size": 16, "memory_encoder_output_channels": 8}
    sizes |= {"mask_downsampler_embed_dim": 16, "memory_fuser_embed_dim": 16, "memory_fuser_intermediate_dim": 16}
    video = transformers.Sam2VideoModel(transformers.Sam2VideoConfig(**PARTS, **sizes, image_size=64))
    video.save_pretrained(tmp_path / "video")
    transformers.Sam2VideoProcessor(processor.image_processor, transformers.Sam2VideoVideoProcessor()).save_pretrained(
        tmp_path / "video"
    )
    loaded = GroundedSegmentation.from_pretrained(
        PROMPTS, str(tmp_path / "detector"), str(tmp_path / "video"), box_threshold=0.0
    )
    state = video.state_dict()
    assert type(loaded.segmenter) is transformers.Sam2Model
    assert all(torch.equal(value, state[name]) for name, value in loaded.segmenter.state_dict().items())
    expected = GroundedSegmentation(
        detector, detector_processor, loaded.segmenter, processor, PROMPTS, box_threshold=0.0
    )
    for result, other in zip(loaded(images(), ROWS), expected(images(), ROWS), strict=True):
        assert result.mask.size == other.mask.size and result.mask.tobytes() == other.mask.tobytes()


def prompts_of(names: list[str], path=None, given: object = None) -> list[list[str]]:
    """Prompts of each label, with a file of these contents."""
    if path is not None:
        path.write_text(json.dumps(given))
    features = datasets.Features({"label": datasets.ClassLabel(names=names)})
    return [*map(prompts_of_labels(features, path), range(len(names)))]


def test_prompts_of_other_encodings(tmp_path):
    """With a byte order mark, and names that are not ASCII; and in UTF-16, which is not guessed."""
    features = datasets.Features({"label": datasets.ClassLabel(names=["bär", "dog"])})
    content = json.dumps({"bär": ["tatze"], "dog": ["head"]}, ensure_ascii=False)
    (tmp_path / "parts.json").write_text(content, encoding="utf-8-sig")
    prompts = prompts_of_labels(features, tmp_path / "parts.json")
    assert [prompts(label) for label in range(2)] == [["tatze"], ["head"]]
    (tmp_path / "parts.json").write_text(content, encoding="utf-16")
    with pytest.raises(ValueError, match=r"parts.json` must be a JSON object"):
        prompts_of_labels(features, tmp_path / "parts.json")


@pytest.mark.parametrize("found", [None, [], ["head", " . "], "head"])
def test_prompts_are_checked_first(tmp_path, found):
    """Before models are loaded, which are not there."""
    masked_dataset(1).to_parquet(tmp_path / "images.parquet")
    (tmp_path / "parts.json").write_text(json.dumps({"a": ["a"], "d": found}))
    options = ("--prompts", tmp_path / "parts.json", "--output_dir", tmp_path / "out")
    refused = call("masks", "sam3", "--images", tmp_path / "images.parquet", *options)
    assert "parts.json` must be a JSON object of lists of names by class" in refused.error
    assert not (tmp_path / "out").exists()


def test_prompts_of_some_classes(tmp_path):
    names, path = ["tench", "dog"], tmp_path / "parts.json"
    assert prompts_of(names, path, {"tench": ["head", "fins"]}) == [["head", "fins"], ["dog"]]
    with pytest.raises(ValueError, match="`tensh`"):
        prompts_of(names, path, {"tensh": ["head", "fins"]})


def test_class_folders_are_prompted_by_words(tmp_path):
    """Without underscores and synonyms, which no detector knows; the file has the folder's name or the words."""
    assert prompts_of(["n01318894"]) == [["n01318894"]]  # of ImageNet-21k
    folders = ["great white shark, white shark, man-eater", "great_grey_owl", "_", "n01440764"]
    assert prompts_of(folders) == [["great white shark"], ["great grey owl"], ["_"], ["tench"]]
    for first, second in ((folders[0], folders[1]), ("great white shark", "great grey owl")):
        prompts = prompts_of(folders, tmp_path / "parts.json", {first: ["fin"], second: ["beak"]})
        assert prompts == [["fin"], ["beak"], ["_"], ["tench"]]
