"""The protocol `model`: the image processor saved with a model, exactly, in evaluation and training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BeitImageProcessor,
    BitImageProcessor,
    DeiTImageProcessor,
    Siglip2ImageProcessor,
    ViTImageProcessor,
)
from transformers import pipeline as pipeline_of

from robust_vit_hf import RobustViTTrainer, eval_transform, load_model, make_image_processor, train_transform
from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.page import open_models
from robust_vit_hf.data.transforms import denormalize, input_size, segmentation_transform
from robust_vit_hf.evaluation.evaluate import _protocols
from robust_vit_hf.evaluation.options import EvaluateOptions, SegmentOptions
from robust_vit_hf.evaluation.segment import segment
from robust_vit_hf.evaluation.session import Side
from robust_vit_hf.models.image_processors import (
    load_processor,
    protocol_of,
    resolve_protocol,
    squash_resample,
    timm_processor,
)
from robust_vit_hf.relevance.relevance_map import forward_logits
from robust_vit_hf.training.adapters import add_lora

from ..helpers.architectures import FAMILIES, WITH_MAP
from ..helpers.commands import call, succeed
from ..helpers.timm_models import HUB_CONFIG, saved_in, tiny
from ..helpers.tiny import (
    IMAGE_SIZE,
    masked_dataset,
    masked_folder,
    save_pretrained,
    tensor_rows,
    tiny_config,
    tiny_vit,
)


STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUASHED, CROP = ({"height": side, "width": side} for side in (36, IMAGE_SIZE))
# As the models on the Hub have them, at the size of the tiny models.
PROCESSORS = {
    "ViT": ViTImageProcessor(size=CROP),
    "DeiT": DeiTImageProcessor(size=SQUASHED, crop_size=CROP, **STATISTICS),
    "Dinov2": BitImageProcessor(size={"shortest_edge": 36}, crop_size=CROP, **STATISTICS),
    "BEiT": BeitImageProcessor(size=CROP),
}
# Pixel values as they are, and without a mean and standard deviation, in [0, 1] and [0, 2].
RANGES = {
    "as saved": {},
    "not normalised": {"do_normalize": False},
    "rescaled": {"do_normalize": False, "rescale_factor": 1 / 127.5},
    "offset": {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    "only normalised": {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    "as stored": {"do_rescale": False, "do_normalize": False},
}


def images() -> list[Image.Image]:
    """Wide, tall, square and greyscale, smooth and noisy."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 61), (75, 33), (32, 32))]
    grey = Image.fromarray(rng.integers(0, 256, (6, 9), dtype=np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
    return [*map(Image.fromarray, noise), grey]


def square_row(width: int, height: int) -> dict[str, list]:
    """A bright square in the image, and the same in the mask."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 2, height // 3, width // 2 + 16, height // 3 + 16))
    return {"image": [mask.convert("RGB")], "mask": [mask]}


def saved(family: str, folder, processor=None):
    model = FAMILIES[family].tiny()
    model.save_pretrained(folder)
    (processor or PROCESSORS[family]).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", PROCESSORS)
def test_predictions_are_those_of_the_pipeline(family, tmp_path):
    name = saved(family, tmp_path)
    model = load_model(name)
    assert resolve_protocol(None, name) == "model"
    processor = load_processor(name, "model", model)
    assert type(processor) is type(PROCESSORS[family])
    assert processor.to_dict() == PROCESSORS[family].to_dict()
    classify = pipeline_of("image-classification", model=name, top_k=4, function_to_apply="softmax")
    batch = eval_transform(processor)({"image": images()})
    with torch.no_grad():
        found = model(torch.stack(batch["pixel_values"])).logits.softmax(1)
    for scores, expected in zip(found, classify([image.convert("RGB") for image in images()]), strict=True):
        expected = {entry["label"]: entry["score"] for entry in expected}
        ordered = [expected[model.config.id2label[index]] for index in range(4)]
        torch.testing.assert_close(scores, torch.tensor(ordered), atol=1e-5, rtol=1e-4)
    paper = eval_transform(load_processor(name, "paper", model))({"image": images()})
    assert any(not torch.equal(*pair) for pair in zip(paper["pixel_values"], batch["pixel_values"], strict=True))


def test_patches_of_siglip_2_are_those_of_a_squashed_image(tmp_path):
    """The logits of a square image are those of transformers; a wide one is squashed to as many patches at most."""
    WITH_MAP["SigLIP 2, NaFlex"].tiny().save_pretrained(tmp_path)
    own = Siglip2ImageProcessor(patch_size=8, max_num_patches=20, resample=Image.Resampling.BICUBIC, **STATISTICS)
    own.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    processor = load_processor(str(tmp_path), "model", model)
    _, _, square, wide = images()
    batch = eval_transform(processor)({"image": [square, wide]})
    assert [tuple(values.shape) for values in batch["pixel_values"]] == [(3, 32, 32)] * 2
    expected = model(**own([square], max_num_patches=16, return_tensors="pt")).logits
    torch.testing.assert_close(forward_logits(model, batch["pixel_values"][0][None]), expected)
    side = Side.of_object(model, processor=own)
    assert side.processor.to_dict() == processor.to_dict()


def test_masks_follow_a_crop_without_a_resize():
    processor = ViTImageProcessor(do_resize=False, do_center_crop=True, crop_size=CROP)
    batch = eval_transform(processor)(square_row(64, 48))
    torch.testing.assert_close((batch["pixel_values"][0][:1] + 1) / 2, batch["mask"][0])


@pytest.mark.parametrize("family", PROCESSORS)
@pytest.mark.parametrize("name", RANGES)
def test_training_has_the_range_of_the_evaluation(name, family):
    processor = type(PROCESSORS[family]).from_dict(PROCESSORS[family].to_dict() | RANGES[name])
    rows = {"image": [Image.new("RGB", (50, 40), (255, 0, 51))], "mask": [Image.new("L", (50, 40), 255)]}
    expected = eval_transform(processor)(rows)["pixel_values"][0]
    for transform in (train_transform(processor), segmentation_transform(processor)):
        found = transform(rows)["pixel_values"][0]
        assert found.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    colours = denormalize(expected[None], processor)[0, :, 0, 0]
    torch.testing.assert_close(colours, torch.tensor([1, 0, 0.2]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", RANGES)
def test_native_images_have_the_range_of_the_pretraining(name):
    """Each channel: black and white, and what lies between."""
    own = ViTImageProcessor.from_dict(PROCESSORS["DeiT"].to_dict() | RANGES[name])
    picture = Image.new("RGB", (40, 40), (0, 255, 51))
    found, expected = (
        processor([picture], return_tensors="pt")["pixel_values"][0, :, 16, 16].float()
        for processor in (make_image_processor("native", IMAGE_SIZE, own), own)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_training_has_the_interpolation_of_the_processor():
    """Of the whole image, squashed without a crop that could differ."""
    images_ = {"image": images()[:1], "mask": [Image.new("L", images()[0].size, 255)], "row_index": [0]}
    found = {}
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        processor = BeitImageProcessor(size=CROP, resample=resample)
        assert squash_resample(processor) == resample
        crop = train_transform(processor, lambda row: (0, row), squash_resample(processor))(images_)["pixel_values"][0]
        size = {"height": 37, "width": 37}
        squashed = processor(images_["image"], size=size, return_tensors="pt")["pixel_values"][0]
        windows = [squashed[:, top : top + 32, left : left + 32] for top in range(6) for left in range(6)]
        both = [flipped for window in windows for flipped in (window, window.flip(2))]
        assert any(torch.allclose(crop, window, atol=1e-6) for window in both)
        found[resample] = crop
    assert not torch.allclose(*found.values(), atol=0.1)
    for protocol in ("paper", "native"):  # as released
        assert squash_resample(make_image_processor(protocol, 32, ViTImageProcessor())) == Image.Resampling.BILINEAR


@pytest.mark.parametrize("family", PROCESSORS)
def test_image_size_scales_the_processor(family, tmp_path):
    name = saved(family, tmp_path)
    processor = load_processor(name, "model", load_model(name), 64)
    assert input_size(processor) == (64, 64) and type(processor) is type(PROCESSORS[family])
    assert set(filter(None, dict(processor.size).values())) == {64 if family in ("ViT", "BEiT") else 72}
    assert list(processor.image_mean) == list(PROCESSORS[family].image_mean)


def test_a_tall_crop_is_scaled_by_its_shorter_side(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    crop = {"do_center_crop": True, "crop_size": {"height": 48, "width": 32}}
    ViTImageProcessor(size={"shortest_edge": 36}, **crop).save_pretrained(tmp_path)
    assert load_processor(str(tmp_path), "model", tiny_vit(), 64).size["shortest_edge"] == 72


def test_protocols_are_known_by_their_settings():
    for protocol in ("paper", "native"):
        assert protocol_of(make_image_processor(protocol, 48, ViTImageProcessor(**STATISTICS))) == protocol
    for processor in PROCESSORS.values():
        assert protocol_of(processor) == "model"
    paper = make_image_processor("paper", 48)
    for setting in ({"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"do_resize": False}):
        assert protocol_of(ViTImageProcessor.from_dict(paper.to_dict() | setting)) == "model"


def test_a_model_without_a_processor(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"no image processor.*`--protocol paper`"):
        load_processor(str(tmp_path), "model", tiny_vit())
    assert load_processor(str(tmp_path), "paper", tiny_vit()).crop_size["height"] == IMAGE_SIZE
    failed = call("evaluate", "--model", tmp_path, "--dataset", masked_folder(tmp_path / "data"))
    assert "give `--protocol paper`" in failed.error


@pytest.mark.parametrize(
    "processor",
    [BitImageProcessor(size={"shortest_edge": 36}, do_center_crop=False), ViTImageProcessor(do_resize=False)],
)
def test_processors_whose_images_differ_in_size(processor):
    for make in (train_transform, segmentation_transform):
        with pytest.raises(ValueError, match=r"images of several sizes"):
            make(processor)
    with pytest.raises(ValueError, match=r"images of several sizes"):
        eval_transform(processor)(square_row(64, 48))
    batch = eval_transform(processor)({"image": images()[2:3]})  # there are no masks to follow
    assert len(batch["pixel_values"]) == 1


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_timm_states_its_own_preprocessing(mode):
    stated = {
        "crop_pct": 0.9,
        "crop_mode": mode,
        "interpolation": "bicubic",
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 2, 3],
    }
    processor = timm_processor({"architecture": "x", "pretrained_cfg": stated}, "model", 224)
    assert input_size(processor) == (224, 224) and processor.resample == Image.Resampling.BICUBIC
    assert set(filter(None, dict(processor.size).values())) == {248}
    assert bool(processor.size["shortest_edge"]) == (mode == "center")
    assert list(processor.image_mean) == [0.1, 0.2, 0.3] and list(processor.image_std) == [1, 2, 3]
    del stated["crop_pct"]
    for other in (stated, stated | {"crop_pct": 0.9, "crop_mode": "border"}):
        with pytest.raises(ValueError, match="--protocol paper"):
            timm_processor(other, "model", 224)


def test_the_papers_protocol_needs_no_statistics_of_timm(tmp_path):
    """It has its own. `native` takes those of the model, and says what lacks."""
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    folder = str(saved_in(tmp_path / "timm", tiny(), config))
    model = load_model(folder)
    assert tuple(load_processor(folder, "paper", model).image_mean) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="mean and standard deviation of the pretraining are not known"):
        load_processor(folder, "native", model)


def test_the_rule_of_the_default(tmp_path):
    own = str(save_pretrained(tiny_vit(), tmp_path / "own"))
    run = save_pretrained(tiny_vit(), tmp_path / "run")
    assert resolve_protocol(None, "vit-b") == resolve_protocol(None, "emoji-shift") == "paper"
    assert resolve_protocol(None, "facebook/deit-base-patch16-224", own) == "paper"
    assert resolve_protocol(None, own) == resolve_protocol(None, own, str(run)) == "model"
    first = save_pretrained(tiny_vit(), tmp_path / "first")  # itself finetuned, under another protocol than the run
    (first / "run.json").write_text(json.dumps({"preset": "native"}))  # as version 0.3 called it
    assert resolve_protocol(None, str(first)) == "native"
    for recorded, expected in (("native", "native"), ("paper", "paper"), ("model", "model"), ("own", "model")):
        (run / "run.json").write_text(json.dumps({"protocol": recorded}))
        assert resolve_protocol(None, own, str(run)) == resolve_protocol(None, str(run)) == expected
        assert resolve_protocol(None, str(first), str(run)) == expected
        assert resolve_protocol("paper", own, str(run)) == "paper"
    assert resolve_protocol(None, "vit-b", str(run)) == "model"


def test_the_record_of_a_run_on_the_hub(hub, tmp_path):
    run = save_pretrained(tiny_vit(), tmp_path / "run")
    hub.add("models", "user/own", run)
    (run / "run.json").write_text(json.dumps({"protocol": "native", "finetuned_from": "a/b", "base_model": "a/b"}))
    hub.add("models", "user/run", run)
    assert resolve_protocol(None, "user/own") == "model"
    assert resolve_protocol(None, "user/own", "user/run") == resolve_protocol(None, "user/run") == "native"


def test_protocols_of_a_finetuned_model(tmp_path):
    bundled = {"base_model": "facebook/dinov2-small", "finetuned_from": "emoji-shift", "protocol": "paper"}
    for record, expected in (
        ({"base_model": "google/vit-base-patch16-224", "protocol": "paper"}, ["paper", "native"]),
        ({"base_model": "google/vit-base-patch16-224", "protocol": "model"}, ["model"]),
        (bundled, ["paper", "native"]),
        (bundled | {"registered": None}, ["paper"]),  # of a folder with this name
        ({"base_model": "someone/else", "protocol": "paper"}, ["paper"]),
        ({"base_model": None, "protocol": "model"}, ["model"]),
    ):
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert _protocols(EvaluateOptions(model=str(tmp_path))) == expected
        assert _protocols(EvaluateOptions(model=str(tmp_path), protocols=["native"])) == ["native"]
    assert _protocols(EvaluateOptions()) == _protocols(EvaluateOptions(model="vit-b")) == ["paper", "native"]


def test_each_model_has_its_own_processor_under_each_protocol(tmp_path):
    names = {side: saved(family, tmp_path / side) for side, family in {"before": "DeiT", "after": "ViT"}.items()}
    first, second = ("model", "paper"), ("paper", "model")
    for opened, then in (first, second):
        session = open_models(AppOptions(model=names["before"], compare=names["after"], protocol=opened))
        for of in (session, session.under(then)):
            for side, name in names.items():
                expected = load_processor(name, of.protocol, session.sides[side].model)
                assert of.sides[side].processor.to_dict() == expected.to_dict()


def test_a_trainer_takes_the_processor_of_its_model(tmp_path, monkeypatch):
    """By name and in memory. What is trained on and what is measured on have one range."""
    monkeypatch.chdir(tmp_path)
    processor = ViTImageProcessor(size=CROP, do_normalize=False)
    name = saved("ViT", tmp_path / "model", processor)
    for model in (name, load_model(name)):
        trainer = RobustViTTrainer(model, tiny_config(tmp_path / "run"), masked_dataset(4), masked_dataset(4))
        assert trainer.processing_class.to_dict() == processor.to_dict()
        for rows in (trainer.train_dataset, trainer.eval_dataset):
            pixel_values = torch.stack([row["pixel_values"] for row in rows])
            assert 0 <= pixel_values.min() < 0.1 and 0.9 < pixel_values.max() <= 1
    named = RobustViTTrainer(name, train_dataset=masked_dataset(4), eval_dataset=masked_dataset(4))
    assert named.args.output_dir == "model-robustvit" and named.args.learning_rate == 3e-6
    in_memory = RobustViTTrainer(tiny_vit(), tiny_config(tmp_path / "run"), tensor_rows(4)).processing_class
    assert in_memory.to_dict() == make_image_processor("paper", IMAGE_SIZE).to_dict()


def test_a_run_keeps_what_it_was_trained_with(tmp_path):
    """`train` takes the processor of the model, and `segment` that of the run, without an option."""
    processor = BeitImageProcessor.from_dict(PROCESSORS["BEiT"].to_dict() | {"rescale_factor": 1 / 127.5})
    name, data, run = saved("BEiT", tmp_path / "model", processor), masked_folder(tmp_path / "data"), tmp_path / "run"
    succeed(
        "train", "--model", name, "--dataset", data, "--output_dir", run, "--num_train_epochs", 1, "--use_cpu",
        "--report_to", "none", "--learning_rate", 0,
    )  # fmt: skip
    assert AutoImageProcessor.from_pretrained(run).to_dict() == processor.to_dict()
    record, trained = (json.loads((run / file).read_text()) for file in ("run.json", "results.json"))
    assert record["protocol"] == trained["settings"]["model"]["protocol"] == "model"
    classify = pipeline_of("image-classification", model=name, top_k=1)
    rows = masked_dataset(8, seed=1)
    right = [
        classify(image)[0]["label"] == f"LABEL_{label}"
        for image, label in zip(rows["image"], rows["label"], strict=True)
    ]
    assert trained["rows"][0]["top1_before"] == pytest.approx(np.mean(right))
    options = {"model": name, "compare": str(run), "dataset": str(data), "methods": ["gae"]}
    segment(SegmentOptions(**options, output_dir=tmp_path / "segmentation"))
    assert json.loads((tmp_path / "segmentation" / "results.json").read_text())["settings"]["protocol"] == "model"


def test_a_conversion_keeps_what_timm_states(tmp_path):
    """But a registered model, and weights that state nothing, get the paper's."""
    stated = HUB_CONFIG["pretrained_cfg"] | {"crop_pct": 0.9, "interpolation": "bicubic"}
    augreg = {"architecture": "vit_base_patch16_224", "num_classes": 1000}
    augreg["pretrained_cfg"] = stated | {"tag": "augreg_in21k_ft_in1k"}
    for name, changes, protocol in (
        ("own", {"pretrained_cfg": stated}, "model"),
        ("bare", {}, "paper"),
        ("augreg", augreg, "paper"),
    ):
        config = HUB_CONFIG | changes
        model = tiny(num_classes=config["num_classes"])
        source, converted = saved_in(tmp_path / name, model, config), tmp_path / f"{name}-converted"
        succeed("convert", source, "--output_dir", converted)
        processor = load_processor(str(converted), "model", load_model(str(converted)))
        assert processor.size["shortest_edge"] == (35 if protocol == "model" else 37)
        assert list(processor.image_mean) == (stated["mean"] if protocol == "model" else [0.5] * 3)
        if protocol == "model":
            assert processor.to_dict() == load_processor(str(source), "model", load_model(str(source))).to_dict()


def test_an_adapter_has_the_processor_of_its_base(tmp_path):
    base = save_pretrained(tiny_vit(), tmp_path / "base")
    add_lora(tiny_vit(), 2, str(base)).save_pretrained(tmp_path / "adapter")
    adapter = str(tmp_path / "adapter")
    found, larger = (load_processor(adapter, "model", load_model(adapter), size) for size in (None, 64))
    assert found.to_dict() == AutoImageProcessor.from_pretrained(base).to_dict() and input_size(larger) == (64, 64)
