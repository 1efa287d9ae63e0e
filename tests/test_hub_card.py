"""Cards that the loopback Hub refuses, as the Hub does, and what the real client makes of it."""

import base64
import json
from http.client import HTTPConnection

import pytest

from .hub import LoopbackHub
from .hub_card import check_card
from .hub_client import run, write


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-classification
base_model: google/vit-base-patch16-224
datasets: [user/masked]
tags: [robustness]
metrics: [accuracy]
model-index:
- name: model
  results:
  - task: {type: image-classification}
    dataset: {type: user/masked, name: Masked, split: test}
    metrics:
    - {type: accuracy, value: 0.0}
---
# Model
"""

# A change of the card, and what the Hub says of it.
REFUSED = [
    ("license: apache-2.0", "license: Apache-2.0", '"license" must be one of [apache-2.0, mit, '),
    ("license: apache-2.0", "license: [", "Invalid YAML in README.md: "),
    ("license: apache-2.0", "tags: [x]", "Invalid YAML in README.md: duplicated mapping key"),
    ("tags: [robustness]", "tags: robustness", '"tags" must be an array'),
    ("tags: [robustness]", "tags: [robustness, 1]", '"tags[1]" must be a string'),
    ("metrics: [accuracy]", "metrics: accuracy", '"metrics" must be an array'),
    (
        "google/vit-base-patch16-224",
        "/home/me/vit",
        '"base_model" with value "/home/me/vit" is not valid. Use a model id',
    ),
    ("google/vit-base-patch16-224", "[a/b, a/b/c]", '"base_model[1]" with value "a/b/c" is not valid.'),
    ("[user/masked]", "[my photos]", '"datasets[0]" with value "my photos" is not valid.'),
    ("- name: model", "- title: model", '"model-index[0].name" is required'),
    ("  results:", "  outcomes:", '"model-index[0].results" is required'),
    ("- task: {type: image-classification}\n   ", "-", '"model-index[0].results[0].task" is required'),
    ("task: {type: ", "task: {name: ", '"model-index[0].results[0].task.type" is required'),
    ("type: user/masked, ", "", '"model-index[0].results[0].dataset.type" is required'),
    (", name: Masked", "", '"model-index[0].results[0].dataset.name" is required'),
    ("split: test", "split: [test]", '"model-index[0].results[0].dataset.split" must be a string'),
    ("metrics:\n    - {type", "metrics:\n      {type", '"model-index[0].results[0].metrics" must be an array'),
    ("{type: accuracy,", "{name: accuracy,", '"model-index[0].results[0].metrics[0].type" is required'),
    (", value: 0.0", "", '"model-index[0].results[0].metrics[0].value" is required'),
]


@pytest.mark.parametrize("old, new, message", REFUSED)
def test_what_is_wrong_with_a_card(old, new, message):
    assert check_card(CARD) == {"errors": [], "warnings": []}
    assert CARD.count(old) == 1
    (error,) = check_card(CARD.replace(old, new))["errors"]
    assert error["message"].startswith(message)


@pytest.mark.parametrize(
    "card, messages",
    [
        ("---\n- a\n---\n", ['"value" must be of type object']),
        ("---\nhello\n---\n", ["The YAML metadata of your README.md is invalid."]),
        ("---\nlicense: mit\n---oops\n", []),
        ("---\nunknown_key: 1\n---", []),
    ],
)
def test_front_matter_that_is_no_mapping(card, messages):
    answer = check_card(card)
    assert [error["message"] for error in answer["errors"]] == messages
    assert bool(answer["warnings"]) == ("oops" in card)  # it never ends, so that there is none


CLIENT = """
import warnings
from huggingface_hub import ModelCard, metadata_update
good, bad = (ModelCard.load(folder / f"{name}.md") for name in ("good", "bad"))
good.validate()
result["validate"] = refused(bad.validate)
result["push"] = refused(bad.push_to_hub, "user/model")
write = [CommitOperationAdd("weights.bin", b"weights"), CommitOperationAdd("README.md", str(bad).encode())]
result["commit"] = refused(api.create_commit, "user/model", write, commit_message="Upload")
good.push_to_hub("user/model")
metadata_update("user/model", {"tags": ["new"]}, overwrite=True)
result["tags"] = ModelCard.load("user/model").data.tags
result["update"] = refused(metadata_update, "user/model", {"license": "my own"}, overwrite=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    api.upload_file(path_or_fileobj=folder / "bare.md", path_in_repo="README.md", repo_id="user/model")
    result["warning"] = [str(warning.message) for warning in caught]
"""


def test_cards(tmp_path):
    bad = CARD.replace("license: apache-2.0", "license: Apache-2.0")
    write(tmp_path, {"good.md": CARD.encode(), "bad.md": bad.encode(), "bare.md": b"# No metadata\n"})
    lines = [{"key": "header", "value": {"summary": "Upload"}}]
    content = base64.b64encode(bad.encode()).decode()
    lines += [{"key": "file", "value": {"path": "README.md", "content": content}}]
    with LoopbackHub() as hub:
        hub.repos["models", "user/model"] = {}
        result = run(hub, tmp_path, CLIENT)
        # Nor does the Hub take what a client did not have validated.
        connection = HTTPConnection(hub.url.removeprefix("http://"))
        headers = {"Authorization": "Bearer hf_test"}
        connection.request("POST", "/api/models/user/model/commit/main", "\n".join(map(json.dumps, lines)), headers)
        answer = connection.getresponse()
        assert answer.status == 400
        result["unchecked"] = ["", 400, answer.read().decode()]
        connection.close()
    message = '"license" must be one of [apache-2.0, '
    for name in ("validate", "push", "update", "unchecked"):
        (error,) = json.loads(result[name][2])["errors"]
        assert error["message"].startswith(message)
    assert result["commit"][0] == "ValueError"
    assert result["commit"][2].startswith(f"Invalid metadata in README.md.\n- {message}")
    assert result["tags"] == ["new"]
    assert any("empty or missing yaml metadata in repo card" in warning for warning in result["warning"])
    assert hub.repos["models", "user/model"] == {"README.md": b"# No metadata\n"}
    assert not hub.uploads and len(hub.log("models", "user/model")) == 4
