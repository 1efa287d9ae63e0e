"""Models, adapters and images with masks on their way to a Hub and back, by the real clients over the real protocol."""

import json
import os
import shutil
import traceback
from pathlib import Path
from threading import Semaphore

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForImageClassification

from robust_vit_hf import RobustViTTrainer, load_model
from robust_vit_hf.hub.upload import create_repo, repo_type_of
from robust_vit_hf.models.image_processors import load_processor

from ..conftest import HUB
from ..helpers.architectures import WITHOUT_MAP
from ..helpers.commands import Completed, call, kill_when, succeed
from ..helpers.hub import TOKENS
from ..helpers.tiny import masked_dataset, masked_folder, tiny_config, tiny_vit


NAME = "user/robustvit-tiny"
PIXEL_VALUES = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)


@pytest.fixture(scope="module")
def hub():
    """One Hub for all tests of this file, which keeps what `pushed` pushed."""
    HUB.reset()
    yield HUB
    HUB.reset()


@pytest.fixture(autouse=True)
def no_downloads():
    """Nothing is loaded from an earlier download."""
    shutil.rmtree(os.environ["HF_HUB_CACHE"], ignore_errors=True)


def training(folder: Path, *options) -> list:
    """Command of a run of seconds from files in `folder`, into `folder/run`."""
    tiny_vit().save_pretrained(folder / "model")
    masked_folder(folder / "data")
    settings = "--learning_rate 0.01 --num_train_epochs 1 --use_cpu --protocol paper --report_to none".split()
    places = ["--model", folder / "model", "--dataset", folder / "data", "--output_dir", folder / "run"]
    return ["train", *settings, *places, *options]


def train(folder: Path, *options) -> Completed:
    return call(*training(folder, *options))


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> tuple[Path, str]:
    """Folder of a finetuning that was pushed, and its log."""
    folder = tmp_path_factory.mktemp("machine-of-a-user")
    options = ["--report_to", "tensorboard", "--push_to_hub", "--hub_model_id", NAME, "--hub_token", "hf_test"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_TOKEN", "hf_expired")  # the option comes first
        completed = train(folder, *options, "--hub_private_repo", "true")
    assert completed.status == 0, completed.err[-3000:]
    return folder, completed.out + completed.err


def logits(model: torch.nn.Module | str | Path) -> list[float]:
    if not isinstance(model, torch.nn.Module):
        model = AutoModelForImageClassification.from_pretrained(model)
    return model.eval()(PIXEL_VALUES).logits[0].tolist()


def test_results_of_other_commands_stay_where_they_are(hub, changed):
    """Below the model, whatever their folder is called, and beside it: images, names of files, and other models."""
    private = "robustness/paper/examples.parquet robustness/paper/validation/after/rows.parquet diag/_parts/0.parquet"
    private += (
        " diag/strip.png diag/cache/.lock robustness/results.json control/model.safetensors control/emissions.csv"
    )
    private += " runs/robustness/strip.png figure_1.png captions.md masks/train/train-00000.parquet report.html"
    for name in f"{private} predictions/a/rows.parquet emissions.csv".split():
        (changed / name).parent.mkdir(parents=True, exist_ok=True)
        (changed / name).write_bytes(b'{"private": true}')  # also valid as a stage of another command
    (changed / "LICENSE").write_bytes(b"public")
    succeed("push", changed, f"{NAME}-measured")
    pushed = hub.repos["models", f"{NAME}-measured"]
    expected = "README.md config.json model.safetensors preprocessor_config.json results.json run.json LICENSE"
    assert {*pushed} - {".gitattributes"} == {*expected.split()}


def test_pictures_that_a_card_shows_are_pushed(hub, changed):
    """With a card of one's own. A link to a folder is not its files."""
    (changed / "run.json").unlink()
    for name in ("maps/[1].png", "maps/2.png", "maps/3.png", "4.png"):
        (changed / name).parent.mkdir(exist_ok=True)
        (changed / name).write_bytes(b"png")
    card = '# Mine\n\n![Maps](maps/[1].png) <img src="maps/2.png"/>\n[All](maps/), [them](maps\\)\n'
    (changed / "README.md").write_text(card)
    succeed("push", changed, f"{NAME}-described")
    pushed = hub.repos["models", f"{NAME}-described"]
    assert {name for name in pushed if name.endswith(".png")} == {"maps/[1].png", "maps/2.png"}


@pytest.fixture
def changed(pushed, tmp_path) -> Path:
    """The finetuned model with other weights."""
    folder, _ = pushed
    model = AutoModelForImageClassification.from_pretrained(folder / "run")
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(tmp_path / "changed")
    for name in ("run.json", "results.json", "preprocessor_config.json"):
        shutil.copy(folder / "run" / name, tmp_path / "changed")
    return tmp_path / "changed"


def test_what_is_pushed(hub, pushed):
    """One commit with weights, processor, card, table and figure, and with no token and no path of the machine."""
    folder, log = pushed
    assert hub.log("models", NAME) == ["End of training", "initial commit"] and ("models", NAME) in hub.private
    files = hub.repos["models", NAME]
    names = {*files} - {".gitattributes"}
    expected = "README.md config.json model.safetensors preprocessor_config.json results.json run.json tables.md"
    assert names == {*expected.split(), "before_after.png"}
    for name, content in files.items():
        for secret in ("hf_test", "hf_expired", str(folder), folder.name):
            assert secret.encode() not in content, name
    assert "hf_test" not in log and "hf_expired" not in log
    assert "hf_test" not in (folder / "run" / "training_args.bin").read_bytes().decode("latin1")


def test_from_python(hub, tmp_path, monkeypatch):
    """`trainer.push_to_hub` into a private repository, which nobody sees without a token."""
    trainer = RobustViTTrainer(tiny_vit(), tiny_config(tmp_path / "mine"), masked_dataset(8))
    trainer.train()
    options = {"commit_message": "The first one", "private": True, "license": "mit", "masks": "drawn by hand"}
    future = trainer.push_to_hub(blocking=False, **options)
    assert future.result().commit_message == "The first one"
    assert ("models", "user/mine") in hub.private and hub.log("models", "user/mine")[0] == "The first one"
    card = hub.repos["models", "user/mine"]["README.md"].decode()
    assert "license: mit" in card and "Masks: drawn by hand." in card and "Nothing was measured" in card
    load = AutoModelForImageClassification.from_pretrained
    with monkeypatch.context() as context:
        context.setenv("HF_TOKEN", "")
        with pytest.raises(OSError, match="user/mine is not a local folder and is not a valid model"):
            load("user/mine")
    assert load("user/mine").num_parameters() == tiny_vit().num_parameters()


def test_a_model_of_timm_with_another_processor_than_its_own(hub, tmp_path):
    """From its folder as from the Hub: transformers prefers timm's own in folders."""
    WITHOUT_MAP["EfficientNet (timm)"].tiny().save_pretrained(tmp_path / "timm")
    assert train(tmp_path, "--method", "swap", "--image_size", 32, "--model", tmp_path / "timm").status == 0
    succeed("push", tmp_path / "run", "user/efficientnet")
    files = hub.repos["models", "user/efficientnet"]
    assert {"model.safetensors", "preprocessor_config.json", "before_after.png"} <= files.keys()
    assert "relevance-map" not in files["README.md"].decode()
    models = {name: load_model(name).eval() for name in (str(tmp_path / "run"), "user/efficientnet")}
    processors = [load_processor(name, "model", model) for name, model in models.items()]
    assert processors[0].to_dict() == processors[1].to_dict() and list(processors[0].image_mean) == [0.5] * 3
    first, second = (model(pixel_values=PIXEL_VALUES).logits for model in models.values())
    assert torch.equal(first, second)


def test_private_is_never_public(hub, pushed, changed, tmp_path):
    """A public repository is refused where a private one is asked for, before anything is uploaded; a new one is private."""
    folder, _ = pushed
    succeed("push", changed, "user/new", "--private")
    assert ("models", "user/new") in hub.private and "model.safetensors" in hub.repos["models", "user/new"]
    hub.repos["models", "user/public"] = {"notes.txt": b"public"}
    refused = call("push", folder / "run", "user/public", "--private")
    assert "exists and is public, so nothing was uploaded" in refused.error
    refused = train(tmp_path, "--push_to_hub", "--hub_model_id", "user/public", "--hub_private_repo", "true")
    assert "exists and is public" in refused.error
    assert list(hub.repos["models", "user/public"]) == ["notes.txt"]


@pytest.mark.parametrize(
    "files", [["config.json", "training_args.bin"], ["config.json", "model.safetensors"], ["README.md"]]
)
def test_folders_that_are_not_to_be_pushed(files, pushed, tmp_path):
    folder, _ = pushed
    for name in files:
        shutil.copy(folder / "run" / name, tmp_path)
    with pytest.raises(ValueError, match="not a folder that can be pushed"):
        repo_type_of(tmp_path)


@pytest.mark.parametrize("token", ["hf_secret\n", "hf_secrét"])
def test_invalid_token(token):
    """It stands in no error, and in none that the error comes from."""
    with pytest.raises(
        PermissionError, match="The token for `user/model` contains characters that no token has"
    ) as refused:
        create_repo("user/model", token=token)
    assert "hf_secr" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.slow
def test_adapter(hub, tmp_path):
    """An adapter goes without its base, whose id it names; over a folder of this machine it is refused."""
    tiny_vit().save_pretrained(tmp_path / "base")
    hub.add("models", "user/tiny-vit", tmp_path / "base")
    options = ["--lora_rank", 2, "--push_to_hub", "--hub_model_id"]
    assert train(tmp_path, *options, "user/adapter", "--model", "user/tiny-vit").status == 0
    files = hub.repos["models", "user/adapter"]
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    card = files["README.md"].decode()
    for line in ("library_name: peft\n", "base_model: user/tiny-vit\n", "| adapter | LORA of rank 2 |"):
        assert line in card
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/tiny-vit"
    ours, theirs, base = logits(load_model("user/adapter")), logits("user/adapter"), logits("user/tiny-vit")
    assert ours == pytest.approx(theirs, rel=1e-4) and ours != pytest.approx(base, rel=1e-4)

    (tmp_path / "local").mkdir()
    assert "which is not on the Hub" in train(tmp_path / "local", *options, "user/local").error
    assert not (tmp_path / "local" / "run" / "adapter_model.safetensors").exists()  # before the training
    assert train(tmp_path / "local", *options[:2]).status == 0
    assert "which is not on the Hub" in call("push", tmp_path / "local" / "run", "user/local").error
    assert ("models", "user/local") not in hub.repos


def test_a_commit_that_fails_leaves_the_old_one(hub, pushed, changed):
    (folder, _), repo = pushed, "user/failing"
    hub.repos["models", repo] = dict(hub.repos["models", NAME])
    before, old = hub.log("models", repo), logits(folder / "run")
    for fault in ("drop_commits", "fail_commits"):
        setattr(hub, fault, 10)  # more often than the client tries
        refused = call("push", changed, repo)
        setattr(hub, fault, 0)
        assert refused.status == 1
        assert "hf_test" not in refused.err
    assert hub.log("models", repo) == before
    assert logits(repo) == pytest.approx(old, rel=1e-5)
    succeed("push", changed, repo, "--commit_message", "At last")
    assert hub.log("models", repo) == ["At last", *before]
    assert logits(repo) == pytest.approx([value + 1 for value in old], rel=1e-4)


@pytest.mark.slow
def test_a_push_that_was_killed_is_repeated(hub, changed):
    """Killed while the second of two large files goes up: nothing is visible, and the first is not uploaded again."""
    (changed / "before_after.png").write_bytes(bytes(2000))
    for arrived in (hub.blobs, hub.begun, hub.uploads):
        arrived.clear()
    hub.stall_uploads = Semaphore(1)  # one is kept
    push = ["push", changed, "user/killed"]
    kill_when(lambda: (len(hub.begun), len(hub.uploads)) == (2, 1), "-m", "robust_vit_hf.cli", *push)
    hub.stall_uploads.release()
    hub.stall_uploads = None
    assert hub.log("models", "user/killed") == ["initial commit"]
    (first,) = hub.uploads
    succeed(*push)
    assert len(hub.begun) == 3 and first not in hub.begun[2:]
    assert hub.repos["models", "user/killed"]["model.safetensors"] == (changed / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "repo, token, endpoint, message",
    [
        ("other/model", "hf_test", None, "403"),
        ("user/model", "hf_expired", None, "401"),
        ("user/model", "hf_test", "http://127.0.0.1:9", "The Hub cannot be reached for `user/model`"),
    ],
    ids=["namespace", "expired token", "no network"],
)
def test_refused(repo, token, endpoint, message, hub, pushed, tmp_path, monkeypatch):
    """Before the training, and by `push`, without the token."""
    folder, _ = pushed
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint or hub.url)
    options = ["--push_to_hub", "--hub_model_id", repo]
    for refused in (call("push", folder / "run", repo), train(tmp_path, *options)):
        assert message in refused.error and not any(token in refused.out + refused.err for token in TOKENS)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert ("models", repo) not in hub.repos
