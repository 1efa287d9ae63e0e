"""Models by name: the paper's seven from where they lie on the Hub, adapters, and incomplete weights."""

import json
import os

import pytest
import timm
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from experiments.paper.published_tables import published_models
from robust_vit_hf import RobustViTTrainer, load_model, make_image_processor, relevance_map
from robust_vit_hf.models.image_processors import load_processor
from robust_vit_hf.models.loading import head_names
from robust_vit_hf.models.model_names import MODELS, SAVED_BY_TIMM, find_model
from robust_vit_hf.training.adapters import add_lora

from ..helpers.architectures import WITHOUT_MAP
from ..helpers.commands import call, succeed
from ..helpers.timm_models import HUB_CONFIG, saved_in, tiny
from ..helpers.tiny import IMAGE_SIZE, ROOT, SIZES, save_pretrained, tensor_rows, tiny_config, tiny_vit


PAPER_NAMES = {"vit-b": "ViT-B", "vit-l": "ViT-L", "deit-s": "DeiT-S", "deit-b": "DeiT-B"}
PAPER_NAMES |= {f"augreg-{size}": f"AR-{size.upper()}" for size in "sbl"}


def test_the_registered_models_are_those_of_the_published_figures():
    names = {name: entry.paper_name for name, entry in MODELS.items() if entry.paper_name}
    assert names == PAPER_NAMES and set(PAPER_NAMES.values()) == set(published_models())
    assert {entry.license for entry in MODELS.values()} == {"apache-2.0"}  # as their cards on the Hub say


def test_by_name(hub, tmp_path):
    """Each name gives the model at its place on the Hub: timm's are converted, and both protocols have their statistics."""
    deit = make_image_processor("native", IMAGE_SIZE, make_image_processor("paper", IMAGE_SIZE))
    deit.image_mean = [0.1, 0.2, 0.3]
    for index, name in enumerate(PAPER_NAMES):
        hub_id = MODELS[name].hub_ids[0]
        if hub_id.startswith("timm/"):
            source = tiny(index)
            head, native = source.head, HUB_CONFIG["pretrained_cfg"]["mean"]
            hub.add("models", hub_id, saved_in(tmp_path / name, source, HUB_CONFIG))
        else:
            source = tiny_vit(index)
            head, native = source.classifier, deit.image_mean
            for part in (source, deit):
                part.save_pretrained(tmp_path / name)
            hub.add("models", hub_id, tmp_path / name)
        model = load_model(name)
        assert type(model).__name__ == "ViTForImageClassification" and model.dtype == torch.float32
        torch.testing.assert_close(model.classifier.weight, head.weight)
        means = [list(load_processor(name, protocol, model).image_mean) for protocol in ("paper", "native")]
        assert means == [[0.5] * 3, list(native)], name


@pytest.mark.parametrize(
    "source, name",
    [
        ("deit-s", "deit-s"),
        ("facebook/deit-base-patch16-224", "deit-b"),
        ("timm/deit_base_patch16_224.fb_in1k", "deit-b"),
        ("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", "augreg-s"),
        ("someone/else", None),
        ("no/such/folder", None),
    ],
)
def test_a_model_is_known_by_what_it_is(source, name):
    assert find_model(source) == name


def test_a_snapshot_of_timm_is_known_by_its_tag(tmp_path):
    config = HUB_CONFIG | {"architecture": "vit_base_patch16_224", "pretrained_cfg": {"tag": "augreg_in21k_ft_in1k"}}
    assert find_model(str(saved_in(tmp_path / "snapshot", tiny(), config | {"num_classes": 1000}))) == "augreg-b"
    assert find_model(str(saved_in(tmp_path / "finetuned", tiny(), config))) is None
    assert find_model(str(saved_in(tmp_path / "own", tiny(), HUB_CONFIG))) is None


def test_an_own_model_in_timms_format_or_a_folder_of_that_name_is_not_registered(tmp_path):
    """Else it would get the statistics, recipe and licence of another."""
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}  # of augreg-s
    config = transformers.ViTConfig(**sizes, image_size=IMAGE_SIZE, num_labels=1000, layer_norm_eps=1e-6)
    save_pretrained(transformers.ViTForImageClassification(config), tmp_path / "vit-b")
    succeed("convert", tmp_path / "vit-b", "--to", "timm", "--output_dir", tmp_path / "timm")
    assert find_model(str(tmp_path / "timm")) is None
    succeed("convert", tmp_path / "timm", "--output_dir", tmp_path / "hf")
    (tmp_path / "hf" / "conversion.json").write_text('{"source": "vit-b"}')
    assert find_model(str(tmp_path / "hf")) is None


def test_a_folder_with_the_name_of_a_registered_model(tmp_path, monkeypatch):
    save_pretrained(tiny_vit(), tmp_path / "vit-b")
    monkeypatch.chdir(tmp_path)
    for command in ("evaluate --model ./vit-b --compare vit-b", "train --model vit-b"):
        assert "For the folder, give `./vit-b`" in call(*command.split(), "--output_dir", "out").error
    torch.testing.assert_close(load_model("./vit-b").classifier.weight, tiny_vit().classifier.weight)
    (tmp_path / "vit-b" / "config.json").rename(tmp_path / "vit-b" / "adapter_config.json")  # as of an adapter
    with pytest.raises(ValueError, match="a folder here"):
        load_model("vit-b")
    named = add_lora(tiny_vit(), 2, "emoji-shift").peft_config["default"].base_model_name_or_path
    assert named == "emoji-shift"  # the base of an adapter is the registered model


def test_an_adapter_is_merged(tmp_path):
    torch.manual_seed(0)
    tiny_vit().save_pretrained(tmp_path / "base")
    adapted = get_peft_model(load_model(str(tmp_path / "base")), LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    model = load_model(str(tmp_path / "adapter"))
    pixel_values = torch.randn(2, 3, 32, 32)
    expected = adapted.eval()(pixel_values=pixel_values).logits
    torch.testing.assert_close(model(pixel_values).logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, tiny_vit()(pixel_values).logits, atol=0.1)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("lora" in name for name in model.state_dict())


def test_an_adapter_names_its_base_from_any_folder(tmp_path, monkeypatch):
    """`runs/base` would be taken for an id of the Hub elsewhere."""
    save_pretrained(tiny_vit(), tmp_path / "runs" / "base")
    monkeypatch.chdir(tmp_path)
    config = LoraConfig(r=2, target_modules=["q_proj"])
    trainer = RobustViTTrainer("runs/base", tiny_config(tmp_path / "out"), tensor_rows(4), peft_config=config)
    named = trainer.model.peft_config["default"].base_model_name_or_path
    assert named == str((tmp_path / "runs" / "base").resolve())


def saved_adapter(tmp_path, config: LoraConfig) -> str:
    """An adapter over `base`, as a training saves it."""
    base = str(save_pretrained(tiny_vit(), tmp_path / "base"))
    trainer = RobustViTTrainer(base, tiny_config(tmp_path / "adapter"), tensor_rows(4), peft_config=config)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    return str(tmp_path / "adapter")


@pytest.mark.parametrize(
    "config, changed",
    [
        ({"target_modules": "all-linear"}, {"seed": 1}),
        ({"target_modules": ["q_proj"], "modules_to_save": ["classifier"]}, {"num_attention_heads": 4}),
    ],
    ids=["weights", "heads"],
)
def test_an_adapter_knows_its_base(config, changed, hub, tmp_path):
    adapter = saved_adapter(tmp_path, LoraConfig(r=2, **config))
    hub.add("models", "user/adapter", tmp_path / "adapter")
    query = load_model(adapter).vit.layers[0].attention.q_proj.weight
    assert not torch.equal(query, tiny_vit().vit.layers[0].attention.q_proj.weight)
    assert torch.equal(load_model("user/adapter").vit.layers[0].attention.q_proj.weight, query)
    tiny_vit(**changed).save_pretrained(tmp_path / "base")
    for name in (adapter, "user/adapter"):
        with pytest.raises(
            ValueError, match=r"base` has changed since the adapter .*: its digest was \w{16}, and is \w{16} now"
        ):
            load_model(name)
    (tmp_path / "adapter" / "run.json").unlink()  # such as one that PEFT has saved
    load_model(adapter)


def test_an_adapter_that_is_trained_on_keeps_its_base(tmp_path):
    """Weights that the adapter holds beside its own are not those of the base."""
    adapter = saved_adapter(tmp_path, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"]))
    further = PeftModel.from_pretrained(load_model(str(tmp_path / "base")), adapter, is_trainable=True)
    trainer = RobustViTTrainer(further, tiny_config(tmp_path / "further"), tensor_rows(4))
    trainer.save_model()
    trainer.create_model_card()
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("adapter", "further")]
    assert runs[0]["base_digest"] == runs[1]["base_digest"] is not None
    load_model(str(tmp_path / "further"))


@pytest.mark.parametrize("case", ["half precision", "biases"])
def test_a_base_that_cannot_be_told_is_not_recorded(case, tmp_path):
    """It is loaded in another precision, or has biases of the adapter within it."""
    base = tiny_vit().bfloat16() if case == "half precision" else tiny_vit()
    config = LoraConfig(r=2, target_modules=["q_proj"], bias="all" if case == "biases" else "none")
    trainer = RobustViTTrainer(base, tiny_config(tmp_path), peft_config=config)
    trainer.save_model()
    trainer.create_model_card()
    assert json.loads((tmp_path / "run.json").read_text())["base_digest"] is None


@pytest.mark.parametrize("fault", ["names", "missing", "shapes", "cut off", "base"])
def test_adapters_that_do_not_fit(fault, tmp_path):
    tiny_vit().save_pretrained(tmp_path / "base")
    adapted = get_peft_model(load_model(str(tmp_path / "base")), LoraConfig(r=2, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None if fault == "base" else str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    if fault == "names":
        weights = {name.replace("layers", "blocks"): tensor for name, tensor in weights.items()}
    elif fault == "missing":
        weights = dict(list(weights.items())[::2])
    elif fault == "shapes":
        weights = {name: torch.zeros(3, 3) for name in weights}
    save_file(weights, file, metadata={"format": "pt"})
    if fault == "cut off":
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"does not fit|names no base|cannot be loaded"):
        load_model(str(tmp_path / "adapter"))


def test_data2vec_is_loaded_with_attentions(tmp_path):
    transformers.Data2VecVisionForImageClassification(transformers.Data2VecVisionConfig(**SIZES)).save_pretrained(
        tmp_path
    )
    model = load_model(str(tmp_path))
    assert relevance_map(model, torch.randn(1, 3, 32, 32)).relevance.shape == (1, 1, 32, 32)


def damaged(folder, fault: str):
    """A model folder with a fault."""
    model = tiny_vit()
    (model.vit if fault == "no head" else model).save_pretrained(folder)
    config, file = folder / "config.json", folder / "model.safetensors"
    if fault == "cut off":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif fault == "other head":
        heads = {"classifier.weight": torch.zeros(7, 24), "classifier.bias": torch.zeros(7)}
        save_file(load_file(file) | heads, file, metadata={"format": "pt"})
    elif fault == "fewer layers":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    elif fault == "several labels":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"problem_type": "multi_label_classification"}))
    elif fault == "one value":
        tiny_vit(num_labels=1).save_pretrained(folder)
    elif fault == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    elif fault == "cut off pickle":
        torch.save(load_file(file), folder / "pytorch_model.bin")
        file.unlink()
        os.truncate(folder / "pytorch_model.bin", 20_000)
    elif fault == "classes from 1":
        names = {1 + label: f"class {label}" for label in range(4)}
        config.write_text(json.dumps(json.loads(config.read_text()) | {"id2label": names, "label2id": {}}))
    elif fault == "no JSON":
        config.write_text('{"hidden')


@pytest.mark.parametrize(
    "name, message",
    [
        ("x.pth.tar", r"x.pth.tar` is a file\. .* `timm.models.save_for_hf\(model, "),
        ("runs/modle", "`runs/modle` is not a folder here .did you mean `runs/model`"),
        ("vti-b", "`vti-b` cannot be loaded: there is no such folder"),
        ("nobody/nothing", "`nobody/nothing` is not a folder here, and cannot be found as a model on the Hub: "),
        ("runs", "`runs` has neither .*, so it is not a model. Did you mean the model `runs/model`"),
        ("runs/model/empty", "empty` has neither `config.json` nor"),
    ],
)
def test_what_is_no_model(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_vit().save_pretrained("runs/model")
    (tmp_path / "runs" / "model" / "empty").mkdir()
    (tmp_path / "x.pth.tar").write_bytes(b"weights")
    with pytest.raises((ValueError, OSError), match=message):
        load_model(name)


def test_docs_say_how_a_model_of_timm_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert SAVED_BY_TIMM in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    model, classes = timm.create_model("test_convnext", num_classes=3), ["cat", "dog", "owl"]
    eval(SAVED_BY_TIMM, {"timm": timm, "model": model, "classes": classes})
    loaded, pixels = load_model("my-model"), torch.randn(2, 3, 64, 64)
    assert [*loaded.config.id2label.values()] == classes
    torch.testing.assert_close(loaded.eval()(pixels).logits, model.eval()(pixels))
    torch.save(model.state_dict(), "last.pth.tar")
    error = call("convert", "last.pth.tar", "--output_dir", "out").error
    assert "Expected the weights of a plain ViT or DeiT" in error and SAVED_BY_TIMM in error and "DINO" not in error


@pytest.mark.parametrize(
    "fault, message",
    [
        ("cut off", "cannot be loaded. SafetensorError"),
        ("no head", "lacks weights of a `ViTForImageClassification`, 2 in all, such as `classifier.bias`"),
        ("other head", r"weights whose shapes .* 2 in all, such as `classifier.bias`: \(7,\), expected \(4,\)"),
        ("fewer layers", "has weights of layers .*, 16 in all"),
        ("several labels", r"has 4 output\(s\) for `multi_label_classification`. Expected a classifier"),
        ("one value", r"has 1 output\(s\) for `regression`"),
        ("pointer", "model.safetensors` is a pointer of Git LFS, not the file itself. Run `git lfs pull`"),
        ("cut off pickle", "cannot be loaded. A file of its weights is cut off"),
        ("classes from 1", "`id2label` .* has the classes 1 to 4. Expected 0 to 3"),
        ("no JSON", "config.json` is not a JSON object"),
    ],
)
def test_a_damaged_model(fault, message, tmp_path):
    damaged(tmp_path / "model", fault)
    with pytest.raises((ValueError, OSError), match=message):
        load_model(str(tmp_path / "model"))


@pytest.mark.parametrize(
    "name", ["ResNet", "HGNet V2", "LeViT", "SwiftFormer", "Swin", "EfficientNet (timm)", "NFNet (timm)"]
)
def test_a_new_head_whatever_it_is_called(name, tmp_path):
    """Its logits are 0, its classes are saved, and the features below stay."""
    WITHOUT_MAP[name].tiny().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="CLIP"):
        load_model(str(tmp_path / "model"), classes=["x", "y"], templates=["a {}"])
    model = load_model(str(tmp_path / "model"), classes=["x", "y"])
    images = torch.randn(2, 3, 32, 32)
    assert model.eval()(pixel_values=images).logits.tolist() == [[0, 0], [0, 0]]
    with torch.no_grad():
        for head in head_names(model):
            model.get_submodule(head).bias[1] = 1
    model.save_pretrained(tmp_path / "new")
    loaded = load_model(str(tmp_path / "new"))
    assert loaded.config.id2label == {0: "x", 1: "y"}
    assert loaded.eval()(pixel_values=images).logits.tolist() == [[0, 1], [0, 1]]


def test_a_head_that_cannot_be_told_from_other_layers():
    model = tiny_vit(num_labels=24)  # as many as its hidden size
    with pytest.raises(ValueError, match="linear layers have 24 outputs"):
        head_names(model)


def test_features_of_timm_without_a_head(tmp_path):
    config = transformers.TimmWrapperConfig(architecture="test_efficientnet", num_labels=2)
    model = transformers.TimmWrapperForImageClassification(config)
    timm = model.timm_model
    timm.reset_classifier(0)
    del timm.pretrained_cfg["url"]
    save_for_hf(timm, str(tmp_path), model_config={"label_names": ["a", "b"]}, safe_serialization=True)
    with pytest.raises(ValueError, match="no classifier head"):
        load_model(str(tmp_path))
    loaded = load_model(str(tmp_path), classes=["x", " y", "z "]).eval()
    assert loaded(pixel_values=torch.randn(1, 3, 32, 32)).logits.tolist() == [[0, 0, 0]]
    loaded.save_pretrained(tmp_path / "new")
    assert load_model(str(tmp_path / "new")).config.id2label == {0: "x", 1: "y", 2: "z"}
    features = timm.eval().conv_stem.weight
    assert torch.equal(loaded.timm_model.conv_stem.weight, features)
