"""Mixtures of two models: exact at both ends, right in between, refused where they would mean nothing, and the command."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    PreTrainedModel,
)

from robust_vit_hf import make_image_processor
from robust_vit_hf.emoji_shift import SHIFTED, load_biased_model, load_evaluation_sets
from robust_vit_hf.emoji_shift.model import IMAGE_SIZE as EMOJI_IMAGE_SIZE
from robust_vit_hf.evaluation import EvaluationSet, evaluate_sets, load_evaluation_set
from robust_vit_hf.files import public_name
from robust_vit_hf.interpolate import interpolate, main, parse_arguments, save_sweep_figure

from . import formats
from .conftest import IMAGE_SIZE, tiny_vit


ROOT = Path(__file__).parents[1]
TENCH, GOLDFISH, STINGRAY = "n01440764", "n01443537", "n01498041"


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "robust_vit_hf.interpolate", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def assert_refused(completed: subprocess.CompletedProcess, message: str) -> None:
    """The last line alone says it, behind the progress bars of transformers."""
    assert completed.returncode == 1 and "Traceback" not in completed.stderr
    last = completed.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last


def bits(model: PreTrainedModel) -> dict[str, bytes]:
    return {
        name: value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for name, value in model.state_dict().items()
    }


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    make_image_processor("native", IMAGE_SIZE, make_image_processor("paper", IMAGE_SIZE)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Sets are cached in a folder of their own, those of subprocesses too."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield


# -- Weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_ends_are_exact(dtype):
    before, after = tiny_vit(seed=0).to(dtype), tiny_vit(seed=1).to(dtype)
    with torch.no_grad():  # what arithmetic would lose: the sign of a zero, a small beside a huge number
        before.classifier.bias[:3] = torch.tensor([-0.0, 1e-30, 1e30])
        after.classifier.bias[:3] = torch.tensor([3.0, 1e30, 1e-30])
    originals = bits(before), bits(after)
    assert originals[0] != originals[1]
    assert bits(interpolate(before, after, 0)) == originals[0]
    assert bits(interpolate(before, after, 1.0)) == originals[1]
    interpolate(before, after, 0.3)
    assert (bits(before), bits(after)) == originals  # neither is changed


def test_midpoint_by_hand():
    before, after = tiny_vit(seed=0), tiny_vit(seed=1)
    after.config.problem_type = "single_label_classification"
    mixed = interpolate(before, after, 0.25)
    assert type(mixed) is type(after) and mixed.config.problem_type == "single_label_classification"
    start, end = before.state_dict(), after.state_dict()
    assert mixed.state_dict().keys() == end.keys()
    for name, value in mixed.state_dict().items():
        assert value.dtype == torch.float32
        expected = 0.75 * start[name].double() + 0.25 * end[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    assert all(parameter.requires_grad for parameter in mixed.parameters())


def test_half_precision_is_mixed_in_fp32():
    before, after = tiny_vit(seed=0).bfloat16(), tiny_vit(seed=1).bfloat16()
    mixed = interpolate(before, after, 0.3).classifier.weight
    expected = 0.7 * before.classifier.weight.float() + 0.3 * after.classifier.weight.float()
    assert mixed.dtype == torch.bfloat16
    assert (mixed == expected.bfloat16()).float().mean() > 0.99  # a tie may be rounded to the other side


def test_buffers():
    """Floating-point buffers are mixed, integer ones must agree."""
    models = tiny_vit(seed=0), tiny_vit(seed=1)
    for model, value in zip(models, (1.0, 3.0), strict=True):
        model.register_buffer("running_mean", torch.full((2,), value))
        model.register_buffer("count", torch.tensor(7))
    mixed = interpolate(*models, 0.5)
    assert mixed.running_mean.tolist() == [2.0, 2.0] and mixed.count.dtype == torch.int64 and mixed.count == 7
    models[1].count += 1
    with pytest.raises(ValueError, match="The integer buffer `count` differs"):
        interpolate(*models, 0.5)


def dinov2() -> PreTrainedModel:
    settings = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    return Dinov2ForImageClassification(Dinov2Config(num_labels=4, **settings))


@pytest.mark.parametrize(
    "make_after, message",
    [
        (dinov2, "`architecture` is ViTForImageClassification before and Dinov2ForImageClassification after"),
        (lambda: tiny_vit(num_labels=5), "`num_labels` is 4 before and 5 after.*finetuned from"),
        (lambda: tiny_vit(num_attention_heads=4), "`num_attention_heads` is 3 before and 4 after"),
        (lambda: tiny_vit(hidden_act="relu"), "`hidden_act` is gelu before and relu after"),
        (
            lambda: tiny_vit(id2label=dict(enumerate("abcd"))),
            "other `id2label` for 4 classes: 0 is `LABEL_0` before and `a` after.*copy `id2label` and `label2id`",
        ),
        (
            lambda: tiny_vit(num_hidden_layers=3),
            r"weights do not fit: `vit\S+` is missing before and \(\d+.*\) float32 after; `vit.*finetuned from",
        ),
        (
            lambda: tiny_vit(intermediate_size=40),
            r"6 weights do not fit: `\S+` is \(48, 24\) float32 before and \(40, 24\) float32 after; `",
        ),
        (lambda: tiny_vit().half(), r"is \(1, 1, 24\) float32 before and .* float16 after.*with the same `dtype`"),
    ],
)
def test_models_that_do_not_fit(make_after, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        interpolate(tiny_vit(), make_after(), 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_the_interval(alpha):
    with pytest.raises(ValueError, match=f"alpha is {alpha}; expected a number from 0"):
        interpolate(tiny_vit(), tiny_vit(), alpha)


def test_an_adapter_is_refused_and_a_merged_one_is_not():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wrapped = get_peft_model(tiny_vit(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    for model in (wrapped, wrapped.base_model.model):
        with pytest.raises(ValueError, match=r"The model after has a PEFT adapter.*merge_and_unload"):
            interpolate(tiny_vit(), model, 0.5)
    merged = wrapped.merge_and_unload()
    mixed = interpolate(tiny_vit(), merged, 0.5)
    assert bits(mixed) != bits(tiny_vit()) and bits(mixed) != bits(merged)


# -- A mixture as a folder --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """A model before, and one after, of 1000 classes."""
    root = tmp_path_factory.mktemp("models")
    return [save(tiny_vit(seed, num_labels=1000), root / name) for seed, name in enumerate(("before", "after"))]


def test_the_command_writes_an_ordinary_model(models, tmp_path):
    output = tmp_path / "new" / "mixed"
    completed = run(*models, "--alpha", 0.25, "--output_dir", output)
    assert completed.returncode == 0, completed.stderr
    assert "0.75 · before + 0.25 · after" in completed.stdout
    assert [path.name for path in output.parent.iterdir()] == ["mixed"]
    assert {path.name for path in output.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "interpolation.json",
    }  # fmt: skip
    recorded = json.loads((output / "interpolation.json").read_text())
    assert recorded == {"alpha": 0.25, "before": "before", "after": "after"}
    for path in output.iterdir():
        content = path.read_bytes()
        assert str(models[0].parent).encode() not in content
        assert (b"alpha" in content) == (path.name == "interpolation.json")
    first, second = (AutoImageProcessor.from_pretrained(folder).to_dict() for folder in (models[1], output))
    assert first == second

    loaded = AutoModelForImageClassification.from_pretrained(output)
    by_hand, other = (AutoModelForImageClassification.from_pretrained(folder).state_dict() for folder in models)
    expected = tiny_vit(num_labels=1000)
    expected.load_state_dict({name: 0.75 * value + 0.25 * other[name] for name, value in by_hand.items()})
    pixel_values = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values).logits, expected(pixel_values).logits, atol=1e-5, rtol=1e-5)


def test_a_folder_with_something_in_it_is_refused_before_loading(tmp_path):
    (tmp_path / "precious").write_text("precious")
    for task in (["--alpha", "0.5"], ["--sweep", "0"]):
        with pytest.raises((FileExistsError, ValueError), match=r"exists already|Choose another --output_dir"):
            main(["no/such/model", "nor/this/one", *task, "--output_dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(FileExistsError, match="exists already: name another output"):
        main(["no/such/model", "nor/this/one", "--alpha", "0.5", "--output_dir", str(tmp_path / "precious")])


@pytest.mark.parametrize("task", [["--alpha", "1.5"], ["--sweep", "0", "1.5"]])
def test_alpha_is_looked_at_before_loading(task, tmp_path):
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        main(["no/such/model", "nor/this/one", *task, "--output_dir", str(tmp_path / "out")])


def test_refusals_are_one_line_and_leave_nothing(models, tmp_path):
    """Also that of transformers for a missing model, which has several lines."""
    assert_refused(run("nowhere", models[1], "--alpha", 0.5, "--output_dir", tmp_path / "out"), "huggingface.co")
    small = save(tiny_vit(), tmp_path / "small")
    with pytest.raises(ValueError, match="`num_labels` is 1000 before and 4 after"):
        main([str(models[0]), str(small), "--alpha", "0.5", "--output_dir", str(tmp_path / "out")])
    (small / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match="Can't load image processor"):
        main([str(small), str(small), "--alpha", "0.5", "--output_dir", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_bundled_model_comes_with_its_processor(tmp_path):
    main(["emoji-shift", "emoji-shift", "--alpha", "0.5", "--output_dir", str(tmp_path / "out")])
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.to_dict() == make_image_processor("paper", EMOJI_IMAGE_SIZE).to_dict()


def test_a_write_that_fails_leaves_nothing(models, tmp_path):
    """The weights do not fit on a disk that takes 16 KiB a file."""
    command = f"ulimit -f 16; exec {sys.executable} -m robust_vit_hf.interpolate {models[0]} {models[1]}"
    completed = subprocess.run(
        ["bash", "-c", f"{command} --alpha 0.5 --output_dir {tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert completed.returncode != 0 and "File too large" in completed.stderr
    assert list(tmp_path.iterdir()) == []


def test_absolute_paths_are_recorded_by_their_last_part(tmp_path):
    assert public_name(f"{tmp_path}/runs/best/") == "best"
    for name in ("runs/best", "google/vit-base-patch16-224", "emoji-shift", "cosine"):
        assert public_name(name) == name


# -- Sweep ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "one of the arguments --alpha --sweep is required"),
        (["--alpha", "0.5", "--sweep"], "not allowed with argument"),
        (["--alpha", "0.5", "--protocol", "standard"], "--protocol is an option of --sweep"),
        (["--sweep", "--shifted", "imagenet-a"], "given together, or neither"),
        (
            ["--sweep", "--in_distribution", "imagenet-z", "--shifted", "imagenet-a"],
            "unknown set `imagenet-z`: expected",
        ),
        (["--sweep", "--in_distribution", "imagenet-a", "--shifted", "imagenet-a=x"], "a set is named twice"),
    ],
)
def test_usage(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["before", "after", *options, "--output_dir", "out"])
    assert message in capsys.readouterr().err


def evaluated(model, sets: dict[str, EvaluationSet], processor) -> dict[str, float]:
    """Top-1 by the metric scripts."""
    results = evaluate_sets(model, sets, processor, Accelerator(cpu=True), ROOT / "eval", relevance=False)
    return {name: result.scores["top1"] for name, result in results.items()}


def test_sweep_over_emoji_shift(tmp_path):
    before = load_biased_model()
    after = copy.deepcopy(before)
    torch.manual_seed(0)
    with torch.no_grad():
        after.classifier.weight += 0.05 * torch.randn_like(after.classifier.weight)
    processor = make_image_processor("paper", EMOJI_IMAGE_SIZE)
    for part in (after, processor):
        part.save_pretrained(tmp_path / "moved")
    options = ["emoji-shift", tmp_path / "moved", "--images_per_set", 5, "--output_dir", tmp_path / "out"]
    completed = run(*options, "--sweep", 0, 1)
    assert completed.returncode == 0, completed.stderr
    assert "alpha 0: val" in completed.stderr and "alpha 1: size" in completed.stderr

    sweep = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (sweep["before"], sweep["after"]) == ("emoji-shift", "moved")
    assert sweep["in_distribution"] == ["val"] and sweep["shifted"] == list(SHIFTED)
    sets = {name: EvaluationSet.of(dataset) for name, dataset in load_evaluation_sets(5).items()}
    expected = {"0.0": evaluated(before, sets, processor), "1.0": evaluated(after, sets, processor)}
    assert expected["0.0"] != expected["1.0"]
    assert {alpha: row["top1"] for alpha, row in sweep["alphas"].items()} == expected
    for row in sweep["alphas"].values():
        assert row["mean_in_distribution"] == row["top1"]["val"]
        assert row["mean_shifted"] == pytest.approx(np.mean([row["top1"][name] for name in SHIFTED]))
    for alpha, row in zip((0, 1), sweep["alphas"].values(), strict=True):
        cells = [f"{100 * value:.1f}" for value in (*row["top1"].values(), row["mean_shifted"])]
        assert f"| {' | '.join([str(alpha), *cells])} |" in completed.stdout
    with Image.open(tmp_path / "out" / "sweep.png") as picture:
        assert picture.width > 800 and len(set(picture.convert("L").tobytes())) > 50
    assert (tmp_path / "out" / "sweep.pdf").stat().st_size > 5000

    # Started again, from another folder with the same weights, with one alpha more.
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    options[1] = tmp_path / "elsewhere"
    completed = run(*options, "--sweep", 1, 0.5, 0)
    assert completed.returncode == 0, completed.stderr
    assert "alpha 0.5: val" in completed.stderr
    assert "alpha 0: " not in completed.stderr and "alpha 1: " not in completed.stderr
    resumed = json.loads((tmp_path / "out" / "sweep.json").read_text())["alphas"]
    assert list(resumed) == ["0.0", "0.5", "1.0"]
    assert {alpha: resumed[alpha] for alpha in sweep["alphas"]} == sweep["alphas"]


def test_sweep_over_sets_of_the_paper(models, tmp_path):
    """By default in steps of a tenth; what is right is up to the protocol."""
    sources = {
        "imagenet-1k": formats.class_folders(tmp_path / "imagenet" / "val", {TENCH: 3, GOLDFISH: 2}, ".JPEG").parent,
        "imagenet-a": formats.class_folders(tmp_path / "a", {STINGRAY: 4}),
        "objectnet": formats.objectnet(tmp_path / "objectnet-1.0"),
    }
    specs = [f"{name}={folder}" for name, folder in sources.items()]
    options = [*models, "--sweep", "--in_distribution", specs[0], "--shifted", *specs[1:], "--protocol"]
    completed = run(*options, "standard", "--output_dir", tmp_path / "out")
    assert completed.returncode == 0, completed.stderr
    sweep = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert list(sweep["alphas"]) == [str(step / 10) for step in range(11)]
    assert sweep["in_distribution"] == ["imagenet-1k"] and sweep["shifted"] == ["imagenet-a", "objectnet"]
    assert str(tmp_path) not in "".join(
        (tmp_path / "out" / name).read_text() for name in ("sweep.json", "made_by.json")
    )

    before, after = (AutoModelForImageClassification.from_pretrained(folder) for folder in models)
    processor = make_image_processor("native", IMAGE_SIZE, AutoImageProcessor.from_pretrained(models[1]))
    sets = {name: load_evaluation_set(name, str(folder), "standard") for name, folder in sources.items()}
    for alpha in (0.0, 0.3, 1.0):
        assert sweep["alphas"][str(alpha)]["top1"] == evaluated(interpolate(before, after, alpha), sets, processor)

    # The folder is of these weights and settings alone.
    options = [*map(str, options), "standard", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="another evaluation, which differs in: protocol, processor, sets"):
        main(["paper" if option == "standard" else option for option in options])
    with pytest.raises(ValueError, match=r"which differs in: weights_before, weights_after\."):
        main([options[1], options[0], *options[2:]])
    assert json.loads((tmp_path / "out" / "sweep.json").read_text()) == sweep


def test_models_of_other_classes_need_sets_of_their_own(models, tmp_path):
    with pytest.raises(
        ValueError, match="have other classes than emoji-shift: name their sets with --in_distribution"
    ):
        main([*map(str, models), "--sweep", "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alphas", [(0.5,), (0.0, 0.5, 1.0)])
def test_a_plot_of_a_single_point(alphas, tmp_path):
    row = {"mean_in_distribution": 1.0, "mean_shifted": 0.5}
    sweep = {"in_distribution": ["val"], "shifted": ["a", "b"], "alphas": dict.fromkeys(alphas, row)}
    save_sweep_figure(sweep, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.png", "sweep.pdf"}
