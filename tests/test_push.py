"""Models, adapters and images with masks on their way to a Hub and back, by the real clients over the real protocol."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Semaphore

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification

from robust_vit_hf.data.shards import ShardWriter
from robust_vit_hf.hub import push_folder
from robust_vit_hf.models import load_model
from robust_vit_hf.push import repo_type_of

from .conftest import FEATURES, masked_dataset, masked_rows, tiny_config, tiny_vit
from .hub import LoopbackHub


ROOT = Path(__file__).parents[1]
NAME = "user/robustvit-tiny"


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


def run(hub: LoopbackHub, folder: Path, *command, **environment) -> subprocess.CompletedProcess:
    """Python with arguments in a process of its own, with a cache in `folder`."""
    variables = os.environ | hub.environment() | {"HF_HOME": str(folder / "home")} | environment
    arguments = [sys.executable, *map(str, command)]
    return subprocess.run(arguments, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


def evaluate(hub: LoopbackHub, folder: Path, code: str, **environment):
    """What an expression gives, as JSON, in a fresh process with an empty cache."""
    imports = "import json, torch, robust_vit_hf; from transformers import *; from PIL import Image"
    fresh = folder / f"fresh-{len(list(folder.glob('fresh-*')))}"
    completed = run(hub, fresh, "-c", f"{imports}\nprint(json.dumps({code}))", **environment)
    assert completed.returncode == 0, completed.stderr[-3000:]
    return json.loads(completed.stdout.splitlines()[-1])


def train(hub: LoopbackHub, folder: Path, *options, **environment) -> subprocess.CompletedProcess:
    """A run of seconds from files in `folder`, into `folder/run`."""
    tiny_vit().save_pretrained(folder / "model")
    (folder / "data").mkdir(exist_ok=True)
    masked_dataset(16).to_parquet(folder / "data" / "train-00000.parquet")
    masked_dataset(8, seed=1).to_parquet(folder / "data" / "validation-00000.parquet")
    settings = "--learning_rate 0.01 --num_train_epochs 1 --use_cpu --preset paper".split()
    settings += ["--model", folder / "model", "--dataset", folder / "data", "--output_dir", folder / "run"]
    return run(hub, folder, "trainer/train.py", *settings, *options, **environment)


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> tuple[Path, str]:
    """Folder of a finetuning that was pushed, and its log."""
    folder = tmp_path_factory.mktemp("machine-of-a-user")
    options = ["--report_to", "tensorboard", "--push_to_hub", "--hub_model_id", NAME, "--hub_token", "hf_test"]
    completed = train(hub, folder, *options, HF_TOKEN="hf_expired")  # the option comes first
    assert completed.returncode == 0, completed.stderr[-3000:]
    return folder, completed.stdout + completed.stderr


def logits(folder: str | Path, pixel_values: torch.Tensor) -> list[float]:
    return AutoModelForImageClassification.from_pretrained(folder)(pixel_values).logits[0].tolist()


# -- What is pushed ---------------------------------------------------------------------------------------------------


def test_what_is_pushed(hub, pushed):
    """One commit with weights, processor, card, table, figure and logs, and with no token and no path of the machine."""
    folder, log = pushed
    assert [message for _, message in hub.log("models", NAME)] == ["End of training", "initial commit"]
    files = hub.repos["models", NAME]
    names = {name for name in files if not name.startswith("runs/")} - {".gitattributes"}
    assert names == {
        "README.md",
        "before_after.png",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "results.json",
        "run.json",
        "table.md",
    }
    assert len([name for name in files if name.startswith("runs/")]) == 1
    for name, content in files.items():
        assert b"hf_test" not in content and b"hf_expired" not in content, name
        assert str(folder).encode() not in content and folder.name.encode() not in content, name
    assert "hf_test" not in log and "hf_expired" not in log
    assert "hf_test" not in (folder / "run" / "training_args.bin").read_bytes().decode("latin1")


def test_the_pushed_card(hub, pushed):
    folder, _ = pushed
    card = ModelCard.load(folder / "run" / "README.md")
    assert hub.repos["models", NAME]["README.md"].decode() == str(card)
    (row,) = json.loads((folder / "run" / "results.json").read_text())["rows"]
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    expected = {"top-1": row["top1_after"], "top-1 before finetuning": row["top1_before"]}
    assert values == {name: round(value, 4) for name, value in expected.items()}
    assert f'model="{NAME}"' in card.content and "(before_after.png)" in card.content
    assert (folder / "run" / "table.md").read_text().strip() in card.content


def test_a_fresh_process_loads_it(hub, pushed, tmp_path):
    folder, _ = pushed
    pixel_values = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    code = f"AutoModelForImageClassification.from_pretrained('{NAME}')"
    code += "(torch.linspace(-1, 1, 3072).view(1, 3, 32, 32)).logits[0].tolist()"
    processor = f"AutoImageProcessor.from_pretrained('{NAME}').crop_size"
    image = "Image.new('RGB', (50, 40), 'red')"
    answers = f"pipeline('image-classification', '{NAME}')({image}), "
    answers += f"{{k: str(v) for k, v in pipeline('relevance-map', '{NAME}')({image}, target=2).items()}}"
    result = evaluate(hub, tmp_path, f"[{code}, {processor}['height'], {answers}]")
    assert result[0] == pytest.approx(logits(folder / "run", pixel_values), rel=1e-5)
    assert result[1] == 32 and len(result[2]) == 4
    assert result[3]["label"] == "LABEL_2" and "size=50x40" in result[3]["relevance"]


def test_from_python(hub, tmp_path):
    """`trainer.push_to_hub` into a branch of a private repository, which nobody sees without a token."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
from robust_vit_hf import RobustViTTrainer
from tests.conftest import masked_dataset, tiny_config, tiny_vit

trainer = RobustViTTrainer(tiny_vit(), tiny_config({str(tmp_path / "mine")!r}), masked_dataset(8))
trainer.train()
future = trainer.push_to_hub(
    commit_message="The first one", revision="trial", private=True, blocking=False, license="mit", masks="drawn by hand"
)
assert future.result().commit_message == "The first one"
"""
    )
    completed = run(hub, tmp_path, script, PYTHONPATH=str(ROOT))
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert ("models", "user/mine") in hub.private
    assert "model.safetensors" not in hub.repos["models", "user/mine"]  # of main
    assert hub.log("models", "user/mine", "trial")[0][1] == "The first one"
    card = hub.files("models", "user/mine", "trial")["README.md"].decode()
    assert "license: mit" in card and "Masks: drawn by hand." in card and "Nothing was measured" in card

    load = "AutoModelForImageClassification.from_pretrained('user/mine', revision='trial')"
    assert evaluate(hub, tmp_path, f"{load}.num_parameters()") == tiny_vit().num_parameters()
    refused = run(hub, tmp_path / "other", "-c", f"from transformers import *; {load}", HF_TOKEN="")
    assert refused.returncode != 0 and "user/mine is not a local folder and is not a valid model" in refused.stderr


def test_private_is_never_public(hub, pushed, tmp_path):
    """A public repository is refused where a private one is asked for, before anything is uploaded."""
    folder, _ = pushed
    hub.repos["models", "user/public"] = {"notes.txt": b"public"}
    completed = run(hub, tmp_path, "-m", "robust_vit_hf.push", folder / "run", "user/public", "--private")
    assert completed.returncode != 0 and "exists and is public, so nothing was uploaded" in completed.stderr
    options = ["--push_to_hub", "--hub_model_id", "user/public", "--hub_private_repo", "true"]
    started = train(hub, tmp_path, *options)
    assert started.returncode != 0 and "exists and is public" in started.stderr
    assert list(hub.repos["models", "user/public"]) == ["notes.txt"]


def test_folders_that_are_not_to_be_pushed(hub, pushed, tmp_path):
    folder, _ = pushed
    for files, message in (
        (["config.json"], "holds no weights"),
        (["config.json", "training_args.bin"], "holds no weights"),
        (["config.json", "model.safetensors"], "has no model card"),
        (["results.json"], "holds no model"),
    ):
        target = tmp_path / "-".join(files)
        target.mkdir()
        for name in files:
            (target / name).write_bytes((folder / "run" / name).read_bytes())
        with pytest.raises(ValueError, match=message):
            repo_type_of(target)
    (target / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere/models/base"}')
    with pytest.raises(ValueError, match="which nobody else has"):
        push_folder(target, "user/foreign", commit_message="no")


def test_a_token_that_is_none(hub, tmp_path):
    """It stands in no error, and in none that the error comes from."""
    for token in ("hf_secret\\n", "hf_secrét"):
        code = f"from robust_vit_hf.hub import create_repo; create_repo('user/model', token='{token}')"
        completed = run(hub, tmp_path, "-c", code)
        assert "PermissionError: The token for `user/model` holds characters that none has" in completed.stderr
        quoted = f"create_repo('user/model', token='{token}')"  # the traceback shows the line itself
        assert "hf_secr" not in completed.stderr.replace(quoted, "")


def test_checkpoints_are_not_pushed(tmp_path):
    with pytest.raises(ValueError, match="`hub_strategy` every_save uploads checkpoints without a card"):
        tiny_config(tmp_path, push_to_hub=True, hub_strategy="every_save")


def test_adapter(hub, tmp_path):
    """An adapter goes without its base, whose id it names; over a folder of this machine it is refused until merged."""
    tiny_vit().save_pretrained(tmp_path / "base")
    hub.repos["models", "user/tiny-vit"] = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    options = ["--lora_rank", 2, "--report_to", "none", "--push_to_hub", "--hub_model_id", "user/adapter"]
    completed = train(hub, tmp_path, *options, "--model", "user/tiny-vit")
    assert completed.returncode == 0, completed.stderr[-3000:]
    files = hub.repos["models", "user/adapter"]
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    card = files["README.md"].decode()
    assert (
        "library_name: peft\n" in card
        and "base_model: user/tiny-vit\n" in card
        and "| adapter | LORA of rank 2 |" in card
    )
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/tiny-vit"

    tensor = "torch.linspace(-1, 1, 3072).view(1, 3, 32, 32)"
    ours, theirs, base = evaluate(
        hub,
        tmp_path,
        f"[m.eval()({tensor}).logits[0].tolist() for m in (__import__('robust_vit_hf.models').models.load_model('user/adapter'),"
        "AutoModelForImageClassification.from_pretrained('user/adapter'),"
        "AutoModelForImageClassification.from_pretrained('user/tiny-vit'))]",
    )
    assert ours == pytest.approx(theirs, rel=1e-4) and ours != pytest.approx(base, rel=1e-4)

    (tmp_path / "local").mkdir()
    completed = train(hub, tmp_path / "local", *options)
    assert completed.returncode != 0 and "which nobody else has" in completed.stderr
    merged = run(hub, tmp_path, "-m", "robust_vit_hf.push", tmp_path / "local" / "run", "user/adapter-of-a-folder")
    assert merged.returncode != 0 and "which nobody else has" in merged.stderr
    (tmp_path / "merged").mkdir()
    completed = train(hub, tmp_path / "merged", *options[:-1], "user/merged", "--merge_lora")
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert "model.safetensors" in hub.repos["models", "user/merged"]
    assert "adapter_config.json" not in hub.repos["models", "user/merged"]
    assert b"| adapter | LORA of rank 2, merged |" in hub.repos["models", "user/merged"]["README.md"]
    assert load_model(str(tmp_path / "merged" / "run")).num_parameters() == tiny_vit().num_parameters()


def test_images_with_masks(hub, tmp_path):
    """What `prepare_masks.py` and `prepare` write, pushed and loaded by id."""
    folder = tmp_path / "prepared"
    features = datasets.Features(FEATURES | {"file_name": datasets.Value("string")})
    writer = ShardWriter(folder, "train", features, {"method": "coco"}, title="Masked", text="Noise.")
    unfinished = run(hub, tmp_path, "-m", "robust_vit_hf.push", folder, "user/prepared")
    assert unfinished.returncode != 0 and "is a data set that was cut off" in unfinished.stderr
    rows = [row | {"file_name": f"{index}.png"} for index, row in enumerate(masked_rows(6))]
    writer.write([features.encode_example(row) for row in rows])
    writer.finish()
    completed = run(hub, tmp_path, "-m", "robust_vit_hf.push", folder, "user/prepared", "--private")
    assert completed.returncode == 0, completed.stderr
    assert ("datasets", "user/prepared") in hub.private
    assert completed.stdout.strip().startswith(hub.url)
    code = "[[row['label'], row['image'].size, row['mask'].size] for row in "
    code += "__import__('datasets').load_dataset('user/prepared', split='train')]"
    assert evaluate(hub, tmp_path, code) == [[index % 4, [40, 40], [40, 40]] for index in range(6)]
    checked = "len(robust_vit_hf.load_masked_dataset('user/prepared', 'train'))"
    assert evaluate(hub, tmp_path, checked) == 6


# -- What goes wrong --------------------------------------------------------------------------------------------------


def changed_copy(folder: Path, target: Path) -> Path:
    """The finetuned model with other weights."""
    model = AutoModelForImageClassification.from_pretrained(folder / "run")
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(target)
    for name in ("run.json", "results.json", "preprocessor_config.json"):
        (target / name).write_bytes((folder / "run" / name).read_bytes())
    return target


def test_a_commit_that_fails_leaves_the_old_one(hub, pushed, tmp_path):
    folder, _ = pushed
    push = ["-m", "robust_vit_hf.push", changed_copy(folder, tmp_path / "changed"), NAME]
    before = hub.log("models", NAME)
    for fault in ("drop_commits", "fail_commits"):
        setattr(hub, fault, 10)  # more often than the client tries
        completed = run(hub, tmp_path, *push)
        setattr(hub, fault, 0)
        assert completed.returncode != 0, fault
        assert "push again" in completed.stderr or "try again" in completed.stderr
        assert "Traceback" not in completed.stderr and "hf_test" not in completed.stderr
    assert hub.log("models", NAME) == before
    bias = f"AutoModelForImageClassification.from_pretrained('{NAME}').classifier.bias.tolist()"
    old = AutoModelForImageClassification.from_pretrained(folder / "run").classifier.bias
    assert evaluate(hub, tmp_path, bias) == pytest.approx(old.tolist())
    completed = run(hub, tmp_path, *push, "--commit_message", "At last")
    assert completed.returncode == 0, completed.stderr
    assert hub.log("models", NAME)[0][1] == "At last"
    assert evaluate(hub, tmp_path, bias) == pytest.approx((old + 1).tolist())


def test_a_push_that_was_killed_is_repeated(hub, pushed, tmp_path):
    """Killed while the second of two large files goes up: nothing is visible, and the first is not uploaded again."""
    folder, _ = pushed
    changed = changed_copy(folder, tmp_path / "changed")
    (changed / "before_after.png").write_bytes(os.urandom(2000))
    command = [sys.executable, "-m", "robust_vit_hf.push", str(changed), "user/killed"]
    variables = os.environ | hub.environment() | {"HF_HOME": str(tmp_path / "home")}
    hub.uploads.clear()
    hub.uploading.clear()
    hub.stall_uploads = Semaphore(1)  # one goes through
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert hub.uploading.wait(120)
        for _ in range(600):
            if len(hub.uploads) == 1:
                break
            assert process.poll() is None
            Semaphore(0).acquire(timeout=0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for _ in range(10):
            hub.stall_uploads.release()
        hub.stall_uploads = None
    assert [message for _, message in hub.log("models", "user/killed")] == ["initial commit"]
    first = list(hub.uploads)
    completed = run(hub, tmp_path, *command[1:])
    assert completed.returncode == 0, completed.stderr
    assert first[0] not in hub.uploads[len(first) :]
    assert hub.repos["models", "user/killed"]["model.safetensors"] == (changed / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "repo, environment, error, message",
    [
        ("other/model", {}, "PermissionError", "has no right to write to `other/model`"),
        ("user/model", {"HF_TOKEN": "hf_read"}, "PermissionError", "has no right to write to `user/model`"),
        ("user/model", {"HF_TOKEN": "hf_expired"}, "PermissionError", "does not accept the token for `user/model`"),
        ("user/model", {"HF_TOKEN": ""}, "PermissionError", "does not accept the token for `user/model`"),
        ("user/model", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "ConnectionError", "The Hub cannot be reached"),
    ],
    ids=["namespace", "read token", "expired token", "no token", "no network"],
)
def test_refused(repo, environment, error, message, hub, pushed, tmp_path):
    """Before the training, and by `push`: what is wrong and what to do, without the token."""
    folder, _ = pushed
    completed = run(hub, tmp_path, "-m", "robust_vit_hf.push", folder / "run", repo, **environment)
    assert completed.returncode != 0 and message in completed.stderr and "Traceback" not in completed.stderr
    options = ["--report_to", "none", "--push_to_hub", "--hub_model_id", repo]
    started = train(hub, tmp_path, *options, **environment)
    assert started.returncode != 0 and message in started.stderr and error in started.stderr
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    for text in (completed.stdout, completed.stderr, started.stdout, started.stderr):
        assert not any(token in text for token in hub.tokens)
    assert ("models", repo) not in hub.repos
