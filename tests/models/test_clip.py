"""CLIP as a classifier: its zero-shot head, relevance maps, finetuning, and new heads for any model."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import processors

from robust_vit_hf import RobustViTTrainer, load_model, make_image_processor
from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.page import open_models
from robust_vit_hf.app.pictures import compare_maps
from robust_vit_hf.models.added_classifiers import CLIPZeroShotForImageClassification
from robust_vit_hf.models.conversion import convert_to_timm, write_with_classes
from robust_vit_hf.models.interpolation import interpolate
from robust_vit_hf.models.loading import load_zero_shot
from robust_vit_hf.results.run_results import read_predictions

from ..helpers.commands import succeed
from ..helpers.tiny import masked_dataset, save_pretrained, tensor_rows, tiny_config, tiny_vit, word_tokenizer


CLASSES = ["tench", "gold fish", "house"]
WORDS = "<unk> <start> a b c d photo of this is . tench gold fish house drawing <end>".split()


def make_clip() -> tuple[transformers.CLIPModel, transformers.CLIPProcessor]:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 48, "initializer_range": 0.3}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=sizes | {"vocab_size": len(WORDS), "eos_token_id": len(WORDS) - 1, "max_position_embeddings": 16},
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = transformers.CLIPModel(config).eval()
    tokenizer = word_tokenizer(WORDS)
    template = processors.TemplateProcessing("$0 <end>", special_tokens=[("<end>", len(WORDS) - 1)])
    tokenizer.backend_tokenizer.post_processor = template
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return model, transformers.CLIPProcessor(images, tokenizer)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """CLIP with random weights, and a tokenizer of a few words, as the Hub has it."""
    folder = tmp_path_factory.mktemp("clip")
    for part in make_clip():
        part.save_pretrained(folder)
    return str(folder)


def picture(seed=0, size=(40, 36)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_the_head_is_that_of_the_zero_shot_pipeline(clip, tmp_path):
    """As a classifier saved by the command, on two images, for several classes."""
    (tmp_path / "classes.txt").write_text("\n".join([*CLASSES, ""]))
    options = ["--classes", tmp_path / "classes.txt", "--templates", "this is a photo of {}."]
    succeed("convert", clip, *options, "--output_dir", tmp_path / "made")
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "made"))
    zero_shot = transformers.pipeline("zero-shot-image-classification", model=clip)
    for seed in range(2):
        expected = zero_shot(picture(seed), candidate_labels=CLASSES, hypothesis_template="this is a photo of {}.")
        expected = {one["label"]: one["score"] for one in expected}
        found = {one["label"]: one["score"] for one in classify(picture(seed), top_k=3)}
        assert found == {name: pytest.approx(score, abs=1e-5) for name, score in expected.items()}
        assert max(expected.values()) - min(expected.values()) > 0.01
    assert json.loads((tmp_path / "made" / "config.json").read_text())["templates"] == ["this is a photo of {}."]


def test_several_templates_are_averaged(clip):
    templates = ["a photo of a {}.", "a drawing of a {}."]
    one, two = (load_zero_shot(clip, CLASSES, [template]).text_embeds for template in templates)
    both = load_model(clip, classes=CLASSES, templates=templates)
    assert isinstance(both, CLIPZeroShotForImageClassification)
    torch.testing.assert_close(both.text_embeds, torch.nn.functional.normalize(one + two, dim=-1))
    assert load_model(clip, classes=CLASSES).text_embeds.equal(one)  # the default


def test_finetuning_leaves_the_text_head(clip, tmp_path):
    """Swap and the relevance loss, with the zero-shot output as the target; then half-way between both (WiSE-FT)."""
    before, model = (load_model(clip, classes=[*CLASSES, "drawing"]) for _ in range(2))
    config = tiny_config(tmp_path, relevance_weight=1.0, confidence_target="original", background_swap=0.5)
    trainer = RobustViTTrainer(model, config, tensor_rows(8))
    trainer.train()
    trainer.save_model()
    after = load_model(str(tmp_path))
    assert after.text_embeds.equal(before.text_embeds) and after.logit_scale == before.logit_scale
    assert not after.visual_projection.weight.equal(before.visual_projection.weight)
    pixel_values = torch.stack([row["pixel_values"] for row in tensor_rows(2)])
    torch.testing.assert_close(after(pixel_values).logits, model.eval()(pixel_values).logits, atol=1e-5, rtol=1e-5)
    mixed = interpolate(before, after, 0.5)
    weights = (one.visual_projection.weight for one in (mixed, before, after))
    mean, first, second = (weight.detach() for weight in weights)
    torch.testing.assert_close(mean, (first + second) / 2)
    assert mixed.text_embeds.equal(before.text_embeds)


@pytest.mark.parametrize("classes", [["one"], ["a", "b", "b "], ["a", " ", "b"]])
def test_bad_classes(clip, classes):
    for name in (clip, "emoji-shift"):
        with pytest.raises(ValueError, match="class"):
            load_model(name, classes=classes)


def test_what_is_refused(clip):
    with pytest.raises(ValueError, match="name the classes"):
        load_model(clip)
    with pytest.raises(ValueError, match=r"Expected templates with `{}` for the name"):
        load_model(clip, classes=CLASSES, templates=["a photo"])
    with pytest.raises(ValueError, match="max_position_embeddings"):
        load_model(clip, classes=[*CLASSES, " ".join(["house", *["gold"] * 11])])
    for classes in (CLASSES, None):
        with pytest.raises(ValueError, match="`emoji-shift` is another model"):
            load_model("emoji-shift", classes=classes, templates=["a {}"])


def test_classes_of_one_embedding(clip, tmp_path):
    """The tokenizer reads alike what it does not know, and without its files everything."""
    assert len(load_model(clip, classes=["house", "tench", "house a"]).text_embeds) == 3
    with pytest.raises(ValueError, match="`Turkey` and `turkey` the same embedding"):
        load_model(clip, classes=["tench", "Turkey", "turkey"])
    shutil.copytree(clip, tmp_path / "clip", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match=r"`tench` and `house`.* tokenizer files are missing"):
        load_model(str(tmp_path / "clip"), classes=["tench", "house"], templates=["{}"])


@pytest.fixture(scope="module")
def classifier(clip, tmp_path_factory):
    """A zero-shot classifier of four classes, as a folder."""
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "classes.txt").write_text("\n".join("abcd"))
    write_with_classes(clip, folder / "made", folder / "classes.txt")
    return folder / "made"


def test_evaluate_and_improve_a_zero_shot_classifier(classifier, tmp_path, monkeypatch):
    """With groups, weighted by those of training. The last training of the model itself is chosen, so that there is a model with a card."""
    for split, groups in {"train": "xxxy" * 2, "validation": "xyxyyxxy" * 2}.items():
        rows = masked_dataset(len(groups), seed=len(groups)).add_column("group", list(groups))
        rows.to_parquet(tmp_path / "data" / f"{split}-00000.parquet")
    options = ["--model", classifier, "--dataset", tmp_path / "data", "--output_dir"]
    succeed("evaluate", *options, tmp_path / "evaluated")
    (row,) = json.loads((tmp_path / "evaluated" / "results.json").read_text())["protocols"]["model"]["rows"]
    processor, model = transformers.CLIPImageProcessor.from_pretrained(classifier), load_model(str(classifier))
    pixel_values = processor([one.convert("RGB") for one in rows["image"]], return_tensors="pt")["pixel_values"]
    assert row["top1_before"] == (model(pixel_values).logits.argmax(1) == torch.tensor(rows["label"])).float().mean()
    assert row["mean_iou_before"] > 0
    monkeypatch.setattr("robust_vit_hf.diagnosis.verdict.Diagnosis.verdict", "partly")
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-1])
    monkeypatch.setattr("robust_vit_hf.improvement.improve.START", None)  # the training begins with the original
    monkeypatch.setattr("robust_vit_hf.improvement.choice.Outcome.key", "better")
    settings = "--max_steps 1 --learning_rate 1e-3 --train_batch_size 4 --effort full".split()
    succeed("improve", *options, tmp_path / "better", *settings)
    predictions = read_predictions(tmp_path / "better" / "diagnosis" / "predictions.parquet")["validation"]
    for table in predictions.values():  # of all training images, and not of the four that the step sees
        assert {*zip(table["group"], table["weight"], strict=True)} == {("x", 0.75), ("y", 0.25)}
    better = load_model(str(tmp_path / "better"))
    ratio = better.text_embeds / model.text_embeds  # the temperature of the model divides them
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4, atol=0)
    assert not better.visual_projection.weight.equal(model.visual_projection.weight)
    card = (tmp_path / "better" / "README.md").read_text()
    assert "Groups of `" in card and "| average, weighted by the training groups | 16 |" in card
    explained, _ = compare_maps(
        open_models(AppOptions(model=str(classifier), compare=str(tmp_path / "better"))), rows["image"][0], 2, "gae"
    )
    for side, of in (("before", model), ("after", better)):
        expected = of(pixel_values[:1]).logits.softmax(dim=1)[0, 2].item()
        assert explained[side].score == pytest.approx(expected, abs=1e-6)


def test_clip_without_all_of_its_weights(clip, tmp_path):
    """Its image encoder with a head, which has the configuration of CLIP; and other shapes."""
    transformers.CLIPForImageClassification(transformers.CLIPConfig.from_pretrained(clip)).save_pretrained(
        tmp_path / "finetuned"
    )
    with pytest.raises(ValueError, match=r"lacks weights of a `CLIPModel`, 39 in all, such as `logit_scale`"):
        load_model(str(tmp_path / "finetuned"), classes=CLASSES)
    shutil.copytree(clip, tmp_path / "clip")
    config = tmp_path / "clip" / "config.json"
    config.write_text(config.read_text().replace('"projection_dim": 16', '"projection_dim": 12'))
    with pytest.raises(ValueError, match=r"shapes .* such as `text_projection.weight`"):
        load_model(str(tmp_path / "clip"), classes=CLASSES)


def test_a_new_head_for_any_model(tmp_path):
    """Of zeros, so that the backbone alone tells images apart. A byte order mark is no part of the first name."""
    source = save_pretrained(tiny_vit(), tmp_path / "source", "paper")
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n", encoding="utf-8-sig")
    succeed("convert", source, "--classes", tmp_path / "classes.txt", "--output_dir", tmp_path / "made")
    made = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "made")
    pixel_values = torch.randn(2, 3, 32, 32)
    assert made.config.id2label == {0: "landbird", 1: "waterbird"} and made(pixel_values).logits.abs().max() == 0
    expected = load_model(str(source)).vit(pixel_values).last_hidden_state
    torch.testing.assert_close(made.eval().vit(pixel_values).last_hidden_state, expected)


def test_the_image_processor_beside_a_new_head(tmp_path):
    """The paper's of a registered model, and that of any other; of weights of timm without one, the paper's."""
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n")
    own = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    for name in ("mine", "vit-b"):
        tiny_vit().save_pretrained(tmp_path / name)
        own.save_pretrained(tmp_path / name)
    (tmp_path / "vit-b" / "conversion.json").write_text('{"source": "google/vit-base-patch16-224"}')
    convert_to_timm(str(tmp_path / "mine"), tmp_path / "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    config["pretrained_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    for name, expected in (
        ("mine", own),
        ("vit-b", make_image_processor("paper", 32)),
        ("timm", make_image_processor("paper", 32)),
    ):
        write_with_classes(str(tmp_path / name), tmp_path / f"{name}-made", tmp_path / "classes.txt")
        saved = transformers.ViTImageProcessor.from_pretrained(tmp_path / f"{name}-made")
        assert saved.size == expected.size and saved.do_center_crop == expected.do_center_crop


def test_a_new_head_for_a_backbone_without_one(tmp_path):
    tiny_vit().vit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="robust-vit convert"):
        load_model(str(tmp_path))
    assert load_model(str(tmp_path), classes=["a", "b"]).config.num_labels == 2
