"""What the metric scripts share: loading, doctests, batches, processes, refusals, and what tests of each use."""

import ast
import doctest
import inspect
import json
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import evaluate
import numpy as np
import pytest
import torch
import yaml


ROOT = Path(__file__).parents[1]
NAMES = ("robust_accuracy", "relevance_segmentation", "calibration")
SUBSET = {"class_subset": [9, 1, 4, 2, 11, 7, 0]}


@pytest.fixture(autouse=True, scope="module")
def caches(tmp_path_factory):
    """Caches of `evaluate` in a temporary folder, and relative paths as in the documentation."""

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
            del sys.modules[name]

    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        # Tests before these may have put the user's own cache on the path, where its package would hide this one.
        usual = str(evaluate.config.HF_MODULES_CACHE)
        patch.setattr(sys, "path", [path for path in sys.path if path != usual])
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        patch.chdir(ROOT)
        forget()
        yield folder
    forget()


def load(name: str, *args, **settings):
    return evaluate.load(f"eval/{name}", *args, **settings)


def in_batches(metric, size: int, **columns):
    """Result of adding the columns in batches."""
    for start in range(0, len(columns["predictions"]), size):
        metric.add_batch(**{name: column[start : start + size] for name, column in columns.items()})
    return metric.compute()


def noise(count: int = 130, num_classes: int = 12, seed: int = 0):
    """Logits with many ties, and lists of accepted ids of which some are empty."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-4, 5, (count, num_classes)) / 2
    references = [rng.choice(num_classes, rng.integers(0, 4), replace=False).tolist() for _ in range(count)]
    return logits, references


def maps(count: int = 7, size: int = 16, seed: int = 0):
    """Relevance maps, of which every other has few levels, and masks of which one is empty and one full."""
    rng = np.random.default_rng(seed)
    relevance = rng.normal(size=(count, size, size))
    relevance[::2] = np.round(relevance[::2])
    masks = rng.random((count, size, size)) < rng.random((count, 1, 1))
    masks[1], masks[2] = False, True
    return relevance, masks


EXAMPLES = {
    "robust_accuracy": lambda: dict(zip(("predictions", "references"), noise(), strict=True)),
    "calibration": lambda: dict(zip(("predictions", "references"), noise(), strict=True)),
    "relevance_segmentation": lambda: dict(zip(("predictions", "references"), maps(), strict=True)),
}


@pytest.mark.parametrize("name", NAMES)
def test_doctests(name):
    module = sys.modules[type(load(name)).__module__]
    results = doctest.testmod(module)
    assert results.attempted > 5 and not results.failed
    # Without the fences, which would count as output.
    card = (ROOT / "eval" / name / "README.md").read_text().replace("```python\n", "").replace("```\n", "")
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(card, {}, f"{name}/README.md", None, 0))
    assert runner.tries > 5 and not runner.failures


@pytest.mark.parametrize("name", NAMES)
def test_self_contained(name):
    """The script can be pushed as it is: the card has its sections, and nothing is imported that is not required."""
    folder = ROOT / "eval" / name
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {"README.md", f"{name}.py", "requirements.txt"}
    imports = set()
    for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            imports |= {module.split(".")[0] for module in names}
    required = {line.split(">")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert imports - set(sys.stdlib_module_names) == required == {"datasets", "evaluate", "numpy"}
    _, front_matter, card = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front_matter)["tags"] == ["evaluate", "metric"]
    sections = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert sections == [
        "Metric Description",
        "How to Use",
        "Inputs",
        "Output Values",
        "Examples",
        "Limitations and Bias",
        "Citation",
    ]
    assert "### Values from Popular Papers" in card
    assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(load(name)._compute).parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_pushed_as_it_is(name, tmp_path, monkeypatch):
    """The folder as a repository of the Hub, which is this server on loopback."""
    shutil.copytree(ROOT / "eval" / name, tmp_path / "spaces/user" / name / "resolve/main")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(evaluate.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/spaces/{{path}}/resolve/{{revision}}/{{name}}"
        monkeypatch.setattr(evaluate.config, "HUB_EVALUATE_URL", url)
        metric = evaluate.load(f"user/{name}", revision="main", cache_dir=str(tmp_path / "cache"))
        server.shutdown()
    assert metric.compute(**EXAMPLES[name]()) == load(name).compute(**EXAMPLES[name]())


@pytest.mark.parametrize(
    "name, settings", [(name, {}) for name in NAMES] + [("robust_accuracy", SUBSET), ("calibration", SUBSET)]
)
def test_batches_and_order_do_not_matter(name, settings):
    columns = EXAMPLES[name]()
    if settings:  # images all of whose ids are outside are refused
        columns["references"] = [[*ids, 1] if ids else [] for ids in columns["references"]]
    whole = load(name, **settings).compute(**columns)
    order = np.random.default_rng(1).permutation(len(columns["predictions"]))
    shuffled = {key: [column[row] for row in order] for key, column in columns.items()}
    assert in_batches(load(name, **settings), 1, **columns) == whole
    assert in_batches(load(name, **settings), 4, **columns) == whole
    assert in_batches(load(name, **settings), 64, **columns) == whole
    assert load(name, **settings).compute(**shuffled) == whole
    assert in_batches(load(name, **settings, keep_in_memory=True), 4, **columns) == whole
    metric = load(name, **settings)
    for row in range(len(order)):
        metric.add(prediction=columns["predictions"][row], reference=columns["references"][row])
    assert metric.compute() == whole


@pytest.mark.parametrize("name", NAMES)
def test_tensors(name):
    """Tensors of torch give what arrays give, in half precision and within a graph too."""
    columns = EXAMPLES[name]()
    predictions = torch.tensor(columns["predictions"], dtype=torch.bfloat16, requires_grad=True)
    expected = load(name).compute(predictions=predictions.detach().double().numpy(), references=columns["references"])
    assert load(name).compute(predictions=predictions, references=columns["references"]) == expected


def test_two_processes(caches):
    """Shares that are added in two processes give the result of one pass."""
    script = f"""
import json, sys
import evaluate
sys.path.insert(0, {str(ROOT)!r})
from tests.test_metrics import EXAMPLES
rank = int(sys.argv[1])
results = {{}}
for name, make in EXAMPLES.items():
    settings = dict(num_process=2, process_id=rank, experiment_id="two", cache_dir={str(caches)!r})
    metric = evaluate.load(f"eval/{{name}}", **settings)
    metric.add_batch(**{{key: column[rank::2] for key, column in make().items()}})
    results[name] = metric.compute()
print(json.dumps(results))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(rank)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=180)[0]) for process in processes)
    whole = {name: load(name).compute(**make()) for name, make in EXAMPLES.items()}
    assert first == json.loads(json.dumps(whole)) and second == dict.fromkeys(EXAMPLES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_added(name):
    metric = load(name)
    with pytest.raises(ValueError, match="zero images"):
        metric.compute()
    with pytest.raises(ValueError, match="zero usable images"):
        metric.compute(predictions=[], references=[])
    columns = EXAMPLES[name]()
    metric.add_batch(predictions=[], references=[])
    assert metric.compute(**columns) == load(name).compute(**columns)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_that_raises_is_not_added(name):
    """The error names the row, and a metric goes on without the batch."""
    columns = EXAMPLES[name]()
    metric = load(name)
    metric.add_batch(**{key: column[:4] for key, column in columns.items()})
    bad = columns["predictions"][4:6].copy()
    bad[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"image 5 \(row 1 of the batch\).*NaN"):
        metric.add_batch(predictions=bad, references=columns["references"][4:6])
    assert metric.compute()["num_images"] == load(name).compute(**{k: c[:4] for k, c in columns.items()})["num_images"]


@pytest.mark.parametrize("name", NAMES)
def test_unequal_lengths_and_unknown_settings(name):
    columns = EXAMPLES[name]()
    with pytest.raises(ValueError, match=r"3 .* but 2 "):
        load(name).add_batch(predictions=columns["predictions"][:3], references=columns["references"][:2])
    for incomplete in ({"predictions": columns["predictions"]}, {"references": columns["references"]}):
        with pytest.raises(ValueError, match="expected"):
            load(name).add_batch(**incomplete)
    with pytest.raises(TypeError, match="no setting class_subest"):
        load(name, class_subest=[1])
    with pytest.raises(TypeError, match="num_bins"):
        load(name).compute(**columns, num_bins=3)


@pytest.mark.parametrize("subset", [[], [-1, 2], [0.5], "ab"])
@pytest.mark.parametrize("name", ["robust_accuracy", "calibration"])
def test_class_subset_must_hold_ids(name, subset):
    with pytest.raises(ValueError, match="class_subset is"):
        load(name, class_subset=subset)


def test_combined_and_side_by_side():
    logits, references = noise()
    metrics = {name: load(name) for name in ("robust_accuracy", "calibration")}
    alone = {name: metric.compute(predictions=logits, references=references) for name, metric in metrics.items()}
    combined = evaluate.combine([load(name) for name in metrics])
    for start in range(0, 120, 8):
        combined.add_batch(predictions=logits[start : start + 8], references=references[start : start + 8])
    for row in range(120, 130):
        combined.add(prediction=logits[row], reference=references[row])
    results = combined.compute()
    assert results == evaluate.combine([load(name) for name in metrics]).compute(
        predictions=logits, references=references
    )
    for name, values in alone.items():
        assert {key: results.get(key, results.get(f"{name}_{key}")) for key in values} == values

    first, second = load("calibration"), load("calibration", num_bins=3)
    for metric in (first, second):
        metric.add_batch(predictions=logits, references=references)
    assert first.compute() == alone["calibration"] and second.compute()["ece"] != alone["calibration"]["ece"]
