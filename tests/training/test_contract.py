"""The contract of `transformers.Trainer`, from its documentation: what holds for a plain Trainer holds here."""

import dataclasses
import json
import os
import signal
import time

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EarlyStoppingCallback,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from robust_vit_hf import RobustViTConfig, RobustViTTrainer

from ..helpers.tiny import LETTERS, STILL, images, masked_dataset, masked_rows, tensor_rows, tiny_config, tiny_vit


ROWS, OTHERS = tensor_rows(16), tensor_rows(10, seed=1)
# Arguments of the Trainer; all others are of its config.
ARGUMENTS = (
    "model_init data_collator compute_metrics preprocess_logits_for_metrics compute_loss_func callbacks optimizers "
)
ARGUMENTS = {*ARGUMENTS.split(), "optimizer_cls_and_kwargs", "peft_config"}


class Recorder(TrainerCallback):
    """Logs, and the weights after each step. `stop` is a step after which the process gets a SIGTERM."""

    def __init__(self, stop=None):
        self.logs, self.weights, self.stop = [], {}, stop

    def on_log(self, args, state, control, logs, **kwargs):
        self.logs.append(dict(logs))

    def on_step_end(self, args, state, control, model, **kwargs):
        self.weights[state.global_step] = weights_of(model)
        if state.global_step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.stop and state.global_step > self.stop:
            time.sleep(0.5)  # a plain Trainer waits for 3 seconds


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def weights_of(model) -> dict[str, torch.Tensor]:
    if not isinstance(model, torch.nn.Module):
        model = AutoModelForImageClassification.from_pretrained(model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first, second, **tolerance) -> bool:
    """Of weights, to the last bit or within a tolerance."""
    close = torch.allclose if tolerance else torch.equal
    return first.keys() == second.keys() and all(close(v, second[name], **tolerance) for name, v in first.items())


def trainer_of(folder, rows=ROWS, model=None, others=None, **options) -> RobustViTTrainer:
    arguments = {name: options.pop(name) for name in ARGUMENTS & options.keys()}
    if "model_init" not in arguments:
        arguments["model"] = model or tiny_vit(**STILL, **LETTERS)
    args = tiny_config(folder, **{"per_device_train_batch_size": 4, "learning_rate": 1e-2} | options)
    return RobustViTTrainer(args=args, train_dataset=rows, eval_dataset=others, **arguments)


def trained(*args, resume=None, **options) -> RobustViTTrainer:
    trainer = trainer_of(*args, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer, name="loss") -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]


def without(row: dict, *names) -> dict:
    return {name: value for name, value in row.items() if name not in names}


def forward(model, pixel_values) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixel_values=pixel_values).logits


def stacked(rows) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([row["pixel_values"] for row in rows]), torch.tensor([row["labels"] for row in rows])


def measured(model, pixel_values, labels) -> tuple[float, float]:
    """Cross-entropy and accuracy by hand."""
    logits = forward(model, pixel_values)
    return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def own_collator(rows):
    """Other pixels than those of the rows."""
    batch = {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}
    return batch | {"pixel_values": batch["pixel_values"].flip(-1) / 2}


def own_metrics(prediction) -> dict:
    """Of everything that a metric may get."""
    arrays = {"predictions": prediction.predictions, "labels": prediction.label_ids * np.arange(10)}
    arrays |= {"inputs": prediction.inputs, "losses": prediction.losses}
    return {name: float(np.mean(array)) for name, array in arrays.items()} | {"shape": len(prediction.predictions)}


class BatchMetrics:
    """Accuracy, from what is kept of each batch."""

    def __init__(self):
        self.hits = []

    def __call__(self, prediction, compute_result):
        self.hits.append((prediction.predictions.argmax(-1) == prediction.label_ids).float().mean())
        if compute_result:
            batches, self.hits = self.hits, []
            return {"batches": len(batches), "accuracy": float(np.mean(batches))}


def own_optimizers(model) -> tuple:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


EPOCHS = {"eval_strategy": "epoch", "per_device_eval_batch_size": 4}
SETTINGS = {
    "clipping": {"max_grad_norm": 0.1, "adam_beta2": 0.9, "label_names": ["labels"]},
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9", "lr_scheduler_type": "constant"},
    "cosine with warmup": {"lr_scheduler_type": "cosine", "warmup_steps": 3},
    "accumulation": {"gradient_accumulation_steps": 3},
    "max_steps": {"max_steps": 7, "num_train_epochs": 50, "logging_steps": 3, "logging_first_step": True},
    "drop_last": {"dataloader_drop_last": True, "data_seed": 5},
    "evaluation by steps": {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 3},
    "eval_on_start": {"eval_on_start": True, **EPOCHS},
    "in order": {"train_sampling_strategy": "sequential", "lr_scheduler_type": "polynomial"},
    "workers": {"dataloader_num_workers": 2},
    "torch Dataset": {"rows": lambda rows: torch.utils.data.Subset(rows, range(len(rows))), **EPOCHS},
    "torch IterableDataset": {"rows": Stream, "max_steps": 6},
    "datasets.Dataset": {"rows": lambda rows: datasets.Dataset.from_list(rows).with_format("torch"), **EPOCHS},
    "data_collator": {"data_collator": own_collator, **EPOCHS},
    "compute_metrics": {"compute_metrics": own_metrics, "include_for_metrics": ["inputs", "loss"], **EPOCHS},
    "batch_eval_metrics": {"batch_eval_metrics": True, "compute_metrics": BatchMetrics(), **EPOCHS},
    "preprocess_logits_for_metrics": {
        "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1) * labels,
        "compute_metrics": lambda prediction: {"product": int(prediction.predictions.sum())},
        **EPOCHS,
    },
    "optimizers": {"optimizers": own_optimizers},
    "optimizer_cls_and_kwargs": {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.5})},
    "activation_checkpointing": {"activation_checkpointing": True},
    "bf16": {"bf16": True, **EPOCHS},
}


@pytest.mark.parametrize("overrides", [STILL, {}], ids=["still", "dropout"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_cross_entropy_is_trained_as_by_a_plain_trainer(settings, overrides, tmp_path):
    """Weights and predictions to the last bit, and every log: losses, norms of gradients, learning rates, metrics."""
    options = {"lr_scheduler_type": "linear", "per_device_train_batch_size": 4, "method": "finetune"} | settings
    options |= {"weight_decay": 0.0}  # which a plain Trainer leaves away from biases and norms
    rows_of, arguments = options.pop("rows", list), {name: options.pop(name) for name in ARGUMENTS & options.keys()}
    config = tiny_config(tmp_path, **{"learning_rate": 1e-2} | options)
    shared = {field.name for field in dataclasses.fields(TrainingArguments)}
    settings = {k: v for k, v in config.to_dict().items() if k in shared and v is not None}
    plain = TrainingArguments(**settings | {"output_dir": str(tmp_path / "plain")})  # `to_dict` shortens the path
    trainers, outputs, predictions = [], [], []
    for kind, args, left_out in ((RobustViTTrainer, config, []), (Trainer, plain, ["mask"])):
        train, others = ([without(row, *left_out) for row in rows] for rows in (ROWS[:14], OTHERS))
        model = tiny_vit(**overrides)
        own = arguments | ({"optimizers": own_optimizers(model)} if "optimizers" in arguments else {})
        trainer = kind(model, args, train_dataset=rows_of(train), eval_dataset=rows_of(others), **own)
        trainers.append(trainer)
        outputs.append(trainer.train())
        predictions.append(trainer.predict(rows_of(others), metric_key_prefix="new"))
    assert {parameter.dtype for parameter in trainers[0].model.parameters()} == {torch.float32}
    assert same(*(weights_of(trainer.model) for trainer in trainers))
    assert not same(weights_of(trainers[0].model), weights_of(tiny_vit(**overrides)))
    assert np.array_equal(*(output.predictions for output in predictions))
    assert predictions[0].label_ids.tolist() == predictions[1].label_ids.tolist()
    ours, theirs = ([*trainer.state.log_history, p.metrics] for trainer, p in zip(trainers, predictions, strict=True))
    for mine, other in zip(ours, theirs, strict=True):
        kept = {name: v for name, v in other.items() if not name.endswith(("time", "per_second", "total_flos"))}
        assert {name: mine.get(name) for name in kept} == pytest.approx(kept, rel=1e-5)
    assert outputs[0].training_loss == pytest.approx(outputs[1].training_loss)
    assert outputs[0].metrics.keys() >= outputs[1].metrics.keys()


@pytest.mark.parametrize("method", ["robustvit", "finetune"])
@pytest.mark.parametrize("kind", ["tensors", "images", "stream of images"])
def test_metrics_and_predictions_are_those_of_a_plain_forward(kind, method, tmp_path):
    """Of other rows than those of the trainer, in batches of which the last is smaller."""
    trainer = trainer_of(tmp_path, model=tiny_vit(**LETTERS), method=method, per_device_eval_batch_size=4)
    others, (pixel_values, labels) = OTHERS, stacked(OTHERS)
    if kind != "tensors":
        others, processor = masked_dataset(10, seed=3), trainer.processing_class
        pixel_values = torch.cat([processor(row["image"], return_tensors="pt")["pixel_values"] for row in others])
        labels = torch.tensor(others["label"])
        others = others.to_iterable_dataset() if kind != "images" else others
    loss, top1 = measured(trainer.model, pixel_values, labels)
    output = trainer.predict(others)
    assert output.predictions == pytest.approx(forward(trainer.model, pixel_values).numpy(), abs=1e-5)
    assert output.label_ids.tolist() == labels.tolist()
    for prefix, metrics in (("test", output.metrics), ("own", trainer.evaluate(others, metric_key_prefix="own"))):
        assert metrics[f"{prefix}_top1"] == pytest.approx(top1)
        assert all(name.startswith(f"{prefix}_") or name == "epoch" for name in metrics)
        if method == "robustvit":  # Eq. 5
            loss = 0.8 * metrics[f"{prefix}_relevance_loss"] + 0.2 * metrics[f"{prefix}_confidence_loss"]
        assert metrics[f"{prefix}_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "rows",
    [
        [without(row, "labels", "mask") for row in OTHERS],
        [without(row, "labels") for row in OTHERS],
        masked_dataset(10).remove_columns(["label", "mask"]),
    ],
    ids=["pixels", "pixels and masks", "images"],
)
def test_rows_without_labels_are_predicted(rows, tmp_path):
    """As by a plain Trainer: logits, and neither labels nor a loss."""
    trainer = trainer_of(tmp_path)
    output = trainer.predict(rows)
    pixel_values = [
        row["pixel_values"] if "pixel_values" in row else trainer.processing_class(row["image"])["pixel_values"][0]
        for row in rows
    ]
    expected = forward(trainer.model, torch.stack([torch.as_tensor(pixels) for pixels in pixel_values]))
    assert output.predictions == pytest.approx(expected.numpy(), abs=1e-5)
    assert output.label_ids is None and not any(name.endswith("top1") for name in output.metrics)


def test_several_evaluation_sets_and_the_best_checkpoint_of_one(tmp_path):
    """`eval_a_…` and `eval_b_…` in training and by `evaluate`; the weights at the end have the lowest loss of `b`."""
    sets, recorder = {"a": OTHERS, "b": tensor_rows(8, seed=2)}, Recorder()
    options = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "num_train_epochs": 4,
    }
    options |= {"metric_for_best_model": "eval_b_loss", "method": "finetune"}
    trainer = trained(tmp_path, others=sets, callbacks=[recorder], **options)
    history = losses(trainer, "eval_b_loss")
    best = 1 + history.index(min(history))
    assert len(history) == 4 and best != 4, "the last is the best, so nothing was tested"
    assert trainer.state.best_metric == min(history)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{4 * best}")
    assert same(weights_of(trainer.model), recorder.weights[4 * best])
    metrics = trainer.evaluate(sets)
    for name, rows in sets.items():
        expected = measured(trainer.model, *stacked(rows))
        assert (metrics[f"eval_{name}_loss"], metrics[f"eval_{name}_top1"]) == pytest.approx(expected, rel=1e-5)
        assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected[0], rel=1e-5)


def test_early_stopping_by_a_metric_of_my_own(tmp_path):
    scores, recorder = iter([1, 3, 2, 2, 9, 9]), Recorder()
    options = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "num_train_epochs": 6,
    }
    options |= {"metric_for_best_model": "score", "compute_metrics": lambda prediction: {"score": next(scores)}}
    callbacks = [recorder, EarlyStoppingCallback(early_stopping_patience=2)]
    state = (trainer := trained(tmp_path, others=OTHERS, callbacks=callbacks, greater_is_better=True, **options)).state
    assert (state.global_step, state.best_metric, state.best_global_step) == (16, 3, 8)
    assert same(weights_of(trainer.model), recorder.weights[8])


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
def test_a_transform_of_my_own_makes_the_pixels(streaming, tmp_path):
    """It is called for every image of every epoch, and its pixels are trained on, each once."""
    called, seen, rows = [], [], masked_dataset(8)

    def transform(batch):
        corners = [float(np.asarray(image)[0, 0, 0]) for image in batch["image"]]
        called.extend(corners)
        masks = [torch.ones(1, 32, 32)] * len(corners)
        pixel_values = [torch.full((3, 32, 32), corner) for corner in corners]
        return {"pixel_values": pixel_values, "mask": masks, "labels": batch["label"]}

    corners = sorted(transform(rows[:])["pixel_values"][index][0, 0, 0].item() for index in range(8))
    if streaming:
        rows = rows.to_iterable_dataset().map(transform, batched=True, remove_columns=["image", "label"])
    else:
        rows.set_transform(transform)
    trainer = trainer_of(tmp_path, rows, max_steps=4)
    layer = trainer.model.vit.embeddings.patch_embeddings.projection
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    called.clear()
    trainer.train()
    assert len(seen) == 4 and sorted(called) == sorted(corners * 2)
    for epoch in (seen[:2], seen[2:]):
        pixels = torch.cat(epoch)
        assert (pixels == pixels[:, :1, :1, :1]).all() and sorted(pixels[:, 0, 0, 0].tolist()) == corners


def test_workers_draw_the_same_crops(tmp_path):
    first, second = (trained(tmp_path, masked_dataset(8), dataloader_num_workers=number) for number in (0, 2))
    assert same(weights_of(first.model), weights_of(second.model))


@pytest.mark.parametrize(
    "options, factors",
    [
        ({"lr_scheduler_type": "constant"}, [1] * 20),
        ({"lr_scheduler_type": "linear"}, [(20 - step) / 20 for step in range(20)]),
        ({}, [0.85 ** (step // 8) for step in range(20)]),
        ({"lr_decay_rate": 0.5, "lr_decay_every": 1}, [0.5 ** (step // 4) for step in range(20)]),
    ],
    ids=["constant", "linear", "default", "decay"],
)
def test_schedules(options, factors, tmp_path):
    """4 steps an epoch, 5 epochs. By default times 0.85 every 2 epochs."""
    trainer = trained(tmp_path, ROWS[:13], num_train_epochs=5, **options)
    assert losses(trainer, "learning_rate") == pytest.approx([1e-2 * factor for factor in factors], rel=1e-9)


def test_callbacks_see_the_components(tmp_path):
    """Logs of the Trainer and the parts of Eq. 5; callbacks are added and removed."""
    recorder = Recorder()
    trainer = trainer_of(tmp_path, callbacks=[recorder], others=OTHERS, eval_strategy="epoch")
    trainer.add_callback(EarlyStoppingCallback)
    assert isinstance(trainer.pop_callback(EarlyStoppingCallback), EarlyStoppingCallback)
    trainer.train()
    steps, evaluations = ([log for log in recorder.logs if name in log] for name in ("loss", "eval_loss"))
    assert len(steps) == 8 and all({"grad_norm", "learning_rate", "epoch"} <= log.keys() for log in steps)
    assert [log["epoch"] for log in evaluations] == [1, 2]
    for prefix, logs in (("", steps), ("eval_", evaluations)):
        for log in logs:
            loss = 0.8 * log[f"{prefix}relevance_loss"] + 0.2 * log[f"{prefix}confidence_loss"]
            assert log[f"{prefix}loss"] == pytest.approx(loss, rel=1e-4) and 0 <= log[f"{prefix}top1"] <= 1


@pytest.mark.parametrize("with_trial", [False, True], ids=["without a trial", "with a trial"])
def test_model_init(with_trial, tmp_path):
    """Two trainings begin with the same weights and end equally; without it, the second one goes on."""
    given, ends = [], []
    init = (lambda trial: given.append(trial) or tiny_vit(**STILL)) if with_trial else lambda: tiny_vit(**STILL)
    for arguments in ({"model_init": init}, {"model": tiny_vit(**STILL)}):
        trainer = trainer_of(tmp_path, **arguments)
        for _ in range(2):
            trainer.train()
            ends.append(weights_of(trainer.model))
    assert same(ends[0], ends[1]) and same(ends[0], ends[2]) and not same(ends[2], ends[3])
    assert {*given} == ({None} if with_trial else set())


@pytest.mark.parametrize("objective", ["default", "own"])
@pytest.mark.parametrize("method", ["robustvit", "finetune"])
def test_hyperparameter_search(method, objective, tmp_path):
    """The objective is the loss of a training with these values; by default too, since no metrics were given."""
    optuna, seen = pytest.importorskip("optuna"), []
    options = {"others": OTHERS, "eval_strategy": "epoch", "method": method, "num_train_epochs": 1}
    trainer = trainer_of(tmp_path / "search", model_init=lambda trial: tiny_vit(**STILL), **options)
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
        None if objective == "default" else lambda metrics: seen.append(metrics["eval_loss"]) or seen[-1],
        n_trials=3,
        sampler=optuna.samplers.RandomSampler(0),
    )
    assert objective == "default" or (len({*seen}) == 3 and best.objective == min(seen))
    alone = trained(tmp_path / "alone", model=tiny_vit(**STILL), **options | best.hyperparameters)
    assert best.objective == pytest.approx(alone.evaluate()["eval_loss"], rel=1e-5)


def test_a_search_of_the_weights_of_the_loss(tmp_path):
    """Each trial trains with its own. An objective sees the components."""
    optuna, seen = pytest.importorskip("optuna"), []

    def objective(metrics: dict) -> float:
        background, foreground = metrics["eval_background_loss"], metrics["eval_foreground_loss"]
        seen.append((metrics["eval_relevance_loss"] - 0.3 * foreground) / background)
        return metrics["eval_top1"]

    options = {"others": OTHERS, "eval_strategy": "epoch", "num_train_epochs": 1}
    trainer = trainer_of(tmp_path, model_init=lambda: tiny_vit(**STILL), **options)
    trainer.hyperparameter_search(
        lambda trial: {"background_weight": trial.suggest_categorical("background_weight", [0.0, 2.0])},
        objective,
        n_trials=2,
        sampler=optuna.samplers.GridSampler({"background_weight": [0.0, 2.0]}, seed=0),
    )
    assert sorted({round(weight, 4) for weight in seen}) == [0, 2]


def test_some_images_without_labels(tmp_path):
    """Only those with a label count in `top1`; -100, which a plain Trainer does not count as an image, is refused."""
    targets = {"relevance_target": "prediction", "num_train_epochs": 1}
    some = [row | {"labels": row["labels"] if number % 3 else -1} for number, row in enumerate(ROWS)]
    full, part = trained(tmp_path, **targets), trained(tmp_path, some, **targets)
    assert same(weights_of(full.model), weights_of(part.model)) and losses(full) == losses(part)
    known = [row for row in some if row["labels"] >= 0]
    expected = measured(part.model, *stacked(known))[1]
    assert part.evaluate(some)["eval_top1"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="`labels` has -100"):
        trained(tmp_path, [row | {"labels": -100} for row in ROWS], **targets)


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
@pytest.mark.parametrize("columns", [["image"], ["image", "label"], ["image", "mask", "label"]], ids=len)
def test_no_row_is_left_out_of_predictions(columns, streaming, tmp_path):
    """Neither without a mask nor with an empty one, which a training leaves out."""
    rows = masked_dataset(6)
    rows = datasets.Dataset.from_list(
        [rows[n] | ({} if n else {"mask": PIL.Image.new("L", rows[0]["image"].size)}) for n in range(6)],
        features=rows.features,
    )
    trainer = trainer_of(tmp_path, masked_dataset(6), per_device_eval_batch_size=6)
    given = rows.select_columns(columns)
    output = trainer.predict(given.to_iterable_dataset() if streaming else given)
    expected = trainer.predict(rows).predictions
    assert output.predictions.shape == (6, 4) and np.allclose(output.predictions, expected, atol=1e-5)
    if "label" in columns:
        assert output.label_ids.tolist() == rows["label"][:]
    if columns == ["image", "label"]:
        entropy = cross_entropy(torch.tensor(expected), torch.tensor(rows["label"][:]))
        assert output.metrics["test_loss"] == pytest.approx(entropy.item())


def test_an_evaluation_needs_masks(tmp_path):
    with pytest.raises(ValueError, match="no `mask` in the batches"):
        trainer_of(tmp_path).evaluate([without(row, "mask") for row in ROWS])


def test_two_trainers_of_a_model(tmp_path):
    """Each computes its own loss, also after the other was made."""
    model = tiny_vit(**STILL, **LETTERS)
    first = trainer_of(tmp_path, model=model, others=OTHERS)
    loss = first.evaluate()["eval_loss"]
    second = trainer_of(tmp_path, model=model, others=OTHERS, relevance_weight=80.0)
    assert first.evaluate()["eval_loss"] == loss < second.evaluate()["eval_loss"] / 10
    first.args.max_steps = 1
    first.train()
    assert losses(first, "train_loss")[-1] < 1


def test_pixels_that_were_prepared_before(tmp_path):
    """By `map`, beside the images."""
    rows = masked_dataset(8).map(lambda row: {"pixel_values": torch.zeros(3, 32, 32), "labels": row["label"]})
    rows = rows.map(lambda row: {"mask": torch.ones(1, 32, 32)}, features=None, remove_columns=["mask"])
    trainer = trainer_of(tmp_path, rows.with_format("torch"))
    batch = next(iter(trainer.get_train_dataloader()))
    assert not batch["pixel_values"].any() and batch["mask"].all()


@pytest.mark.parametrize("method", ["robustvit", "finetune"])
@pytest.mark.parametrize("count", [16, 13, 9], ids=["whole", "5 left", "1 left"])
def test_gradient_accumulation(count, method, tmp_path):
    """8×1 is 1×8 up to rounding, also with an incomplete last batch, and so are the logged losses."""
    options = {"optim": "sgd", "learning_rate": 0.05, "method": method}
    whole, parts, other = (
        trained(tmp_path, ROWS[:count], per_device_train_batch_size=size, gradient_accumulation_steps=steps, **options)
        for size, steps in ((8, 1), (1, 8), (3, 1))
    )
    assert same(weights_of(whole.model), weights_of(parts.model), rtol=1e-4, atol=1e-5)
    assert not same(weights_of(whole.model), weights_of(other.model), rtol=1e-3, atol=1e-4)
    assert losses(whole) == pytest.approx(losses(parts), rel=1e-4) and len(losses(parts)) == 4


def test_batch_size_is_found(tmp_path):
    """As if the batch had been of the size that fits: the run begins again with it."""

    class OutOfMemory(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if trainer._train_batch_size > 8:
                raise RuntimeError("CUDA out of memory.")

    options = {"auto_find_batch_size": True, "per_device_train_batch_size": 16, "callbacks": [OutOfMemory()]}
    trainer = trainer_of(tmp_path, **options)
    trainer.train()
    found = trainer._train_batch_size
    assert 4 <= found <= 8 and trainer.state.global_step == 2 * -(-16 // found)
    assert same(weights_of(trainer.model), weights_of(trained(tmp_path, per_device_train_batch_size=found).model))


@pytest.mark.parametrize("overrides", [STILL, {}], ids=["still", "dropout"])
@pytest.mark.parametrize("rows", [ROWS, masked_dataset(16)], ids=["tensors", "images"])
@pytest.mark.parametrize("step", [4, 6], ids=["end of epoch", "middle of epoch"])
def test_resume_is_an_unbroken_run(step, rows, overrides, tmp_path):
    """By path and by `True`, weights to the last bit, and the same logs."""
    options = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None, "num_train_epochs": 3}
    whole = trained(tmp_path / "a", rows, tiny_vit(**overrides, **LETTERS), **options)
    for number in range(step + 2, 13, 2):
        (tmp_path / "a" / f"checkpoint-{number}").rename(tmp_path / f"later-{number}")
    for resume in (True, str(tmp_path / "a" / f"checkpoint-{step}")):
        resumed = trained(tmp_path / "a", rows, tiny_vit(5, **overrides, **LETTERS), resume=resume, **options)
        assert same(weights_of(whole.model), weights_of(resumed.model)), resume
        assert losses(resumed) == pytest.approx(losses(whole), rel=1e-6) and len(losses(whole)) == 12


def test_resume_true_without_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        trained(tmp_path, resume=True)


@pytest.mark.parametrize(
    "options, kept",
    [({"save_total_limit": 2}, [6, 8]), ({"save_steps": 3}, [3, 6, 8]), ({"save_only_model": True}, [2, 4, 6, 8])],
    ids=["limit", "no limit", "only the model"],
)
def test_checkpoints_have_the_weights_of_their_steps(options, kept, tmp_path):
    """And can be loaded by `from_pretrained`, as what `save_model`, `save_metrics` and `save_state` write."""
    recorder, defaults = Recorder(), {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    trainer = trained(tmp_path, others=OTHERS, callbacks=[recorder], **defaults | options)
    paths = {int(path.name.split("-")[1]): path for path in tmp_path.glob("checkpoint-*")}
    assert sorted(paths) == kept
    for step, path in paths.items():
        assert same(weights_of(path), recorder.weights[step])
        names = {file.name for file in path.iterdir()}
        assert ({"optimizer.pt", "scheduler.pt"} <= names) != trainer.args.save_only_model
        assert AutoImageProcessor.from_pretrained(path).to_dict() == trainer.processing_class.to_dict()
        assert json.loads((path / "trainer_state.json").read_text())["global_step"] == step
    trainer.save_model(tmp_path / "new")
    trainer.save_metrics("eval", metrics := trainer.evaluate())
    trainer.save_state()
    assert same(weights_of(tmp_path / "new"), recorder.weights[8])
    assert same(weights_of(trainer_of(tmp_path, model=str(tmp_path / "new")).model), recorder.weights[8])
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_loss"] == metrics["eval_loss"]
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 8


def test_sigterm_saves_a_checkpoint_and_stops(tmp_path):
    """Then the run is resumed, and ends like one that was not stopped. The handler of before is there again."""
    handler, recorder, folder = signal.getsignal(signal.SIGTERM), Recorder(stop=6), tmp_path / "stopped"
    options = {"enable_jit_checkpoint": True, "save_strategy": "steps", "save_steps": 100, "num_train_epochs": 5}
    try:
        step = trained(folder, callbacks=[recorder], **options).state.global_step
        assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert 6 <= step < 20 and [path.name for path in folder.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert same(weights_of(folder / f"checkpoint-{step}"), recorder.weights[step])
    resumed, whole = trained(folder, resume=True, **options), trained(tmp_path / "whole", **options)
    assert resumed.state.global_step == 20 and same(weights_of(resumed.model), weights_of(whole.model))


COMMAND = (
    "--output_dir out --learning_rate 1e-4 --second_order --relevance_weight 8 --use_cpu --logging_strategy epoch"
)
COMMAND += " --lr_scheduler_type cosine --enable_jit_checkpoint --save_only_model False"
VALUES = {"learning_rate": 1e-4, "second_order": True, "relevance_weight": 8.0, "logging_strategy": "epoch"}
VALUES |= {"lr_scheduler_type": "cosine", "enable_jit_checkpoint": True}


@pytest.mark.parametrize("how", ["command line", "json", "yaml", "dict"])
def test_arguments_are_parsed(how, tmp_path):
    """The rest has its defaults."""
    parser, path = HfArgumentParser(RobustViTConfig), tmp_path / "settings"
    path.write_text(json.dumps(VALUES | {"output_dir": "out", "use_cpu": True}))  # YAML too
    (config,) = {
        "command line": lambda: parser.parse_args_into_dataclasses(COMMAND.split()),
        "json": lambda: parser.parse_json_file(str(path)),
        "yaml": lambda: parser.parse_yaml_file(str(path)),
        "dict": lambda: parser.parse_dict(json.loads(path.read_text())),
    }[how]()
    assert isinstance(config, RobustViTConfig) and {name: getattr(config, name) for name in VALUES} == VALUES
    default = RobustViTConfig("out", use_cpu=True)
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(default, f.name)}
    assert changed == VALUES.keys()


@pytest.mark.parametrize("method", ["robustvit", "finetune", "swap"])
def test_config_round_trip(method, tmp_path):
    """Through `to_dict` and `to_json_string`; tokens are hidden."""
    config = tiny_config(tmp_path, method=method, hub_token="hf_secret", optim="sgd", save_steps=7)
    assert config.to_dict()["hub_token"] == "<HUB_TOKEN>" and "hf_secret" not in config.to_json_string()
    assert config.to_dict()["method"] == method == config.to_sanitized_dict()["method"]
    for values in (config.to_dict(), json.loads(config.to_json_string())):
        (parsed,) = HfArgumentParser(type(config)).parse_dict(values)
        for again in (type(config)(**values), parsed):
            assert type(again) is type(config) and again.to_dict() == config.to_dict()


def test_help_tells_every_other_default():
    """With a help of its own, which argparse follows by the default; options of ours have a help too."""
    theirs = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    parser = HfArgumentParser(RobustViTConfig)
    parts = {action.dest: action for action in parser._actions if action.default is not False}
    text, other = " ".join(parser.format_help().split()), []
    for field in dataclasses.fields(RobustViTConfig):
        if field.name not in theirs:
            assert field.metadata["help"], field.name
        elif field.default != theirs[field.name].default:
            other.append(field.name)
            assert field.metadata["help"] != theirs[field.name].metadata["help"], field.name
            if field.default is not False:
                assert parts[field.name].default == field.default
                shown = f"{' '.join(field.metadata['help'].replace('%%', '%').split())} (default: {field.default})"
                assert shown in text, field.name
    assert {"learning_rate", "num_train_epochs", "lr_scheduler_type"} <= {*other}


@pytest.mark.parametrize("method", ["robustvit", "finetune"])
def test_adapter(method, tmp_path):
    """Only the adapter is trained and saved; a run that resumes ends like an unbroken one."""
    peft = pytest.importorskip("peft")

    def run(resume=None):
        config = peft.LoraConfig(r=2, target_modules="all-linear")
        options = {"method": method, "save_strategy": "epoch", "save_total_limit": None, "resume": resume}
        return trained(tmp_path, model=tiny_vit(**STILL, **LETTERS), peft_config=config, **options)

    trainer = run()
    after = weights_of(trainer.model)
    trainable = [name for name, value in trainer.model.named_parameters() if value.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    base = {name.replace("base_layer.", "").removeprefix("base_model.model."): v for name, v in after.items()}
    assert all(torch.equal(base[name], value) for name, value in weights_of(tiny_vit()).items())
    assert all(value.any() for name, value in after.items() if "lora_B" in name and "key" not in name)
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-8"):
        assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
        loaded = peft.PeftModel.from_pretrained(tiny_vit(**STILL), folder)
        assert torch.allclose(forward(loaded, images()), forward(trainer.model, images()), atol=1e-5)
    assert same(weights_of(run(str(tmp_path / "checkpoint-4")).model), after)


@pytest.mark.parametrize(
    "option, value",
    [
        ("torch_compile", True),
        ("deepspeed", {"zero_optimization": {"stage": 2}}),
        ("label_smoothing_factor", 0.1),
        ("remove_unused_columns", True),
        ("ddp_static_graph", True),
    ],
)
def test_refused_options(option, value, tmp_path):
    """When the config is made, by the name of the option."""
    with pytest.raises(ValueError, match=f"(?i){option}"):
        tiny_config(tmp_path, **{option: value})


CHANGES = {
    "0 to 255": (lambda row: row | {"mask": 255 * row["mask"]}, r"(?i)masks?.* 255"),
    "another size": (lambda row: row | {"mask": row["mask"][:, ::2, ::2]}, r"(?i)masks?.* 16"),
    "no label": (lambda row: row | {"labels": -1}, "(?i)needs? (the|a) label"),
    "no labels": (lambda row: without(row, "labels"), "there is no `labels`"),
    "no masks": (lambda row: without(row, "mask"), "(?i)no `mask`"),
}


@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_refused_rows(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, [change(row) for row in ROWS])


def test_refuses_images_whose_masks_have_another_size(tmp_path):
    rows = masked_rows(4)
    rows[2]["mask"] = rows[2]["mask"].resize((21, 23))
    with pytest.raises(ValueError, match=r"(?i)mask.*(21.*23|23.*21)"):
        trained(tmp_path, datasets.Dataset.from_list(rows, features=masked_dataset(1).features))


def test_refuses_a_loss_function(tmp_path):
    """Which would get the labels in place of the loss."""
    with pytest.raises(ValueError, match="`compute_loss_func` takes the labels"):
        trainer_of(tmp_path, compute_loss_func=lambda outputs, labels, num_items_in_batch=None: outputs.logits.mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_refuses_half_precision_weights(dtype, tmp_path):
    with pytest.raises(ValueError, match=str(dtype).removeprefix("torch.")):
        trainer_of(tmp_path, model=tiny_vit().to(dtype))


@pytest.mark.parametrize(
    "option, tolerance",
    [("activation_checkpointing", {"rtol": 1e-5, "atol": 1e-6}), ("bf16", {"rtol": 0.1, "atol": 0.01})],
)
def test_relevance_is_trained_as_without(option, tolerance, tmp_path):
    """Weights stay in fp32."""
    first, second = (trained(tmp_path, optim="sgd", **{option: on}) for on in (False, True))
    assert {value.dtype for value in second.model.parameters()} == {torch.float32}
    assert same(weights_of(first.model), weights_of(second.model), **tolerance)
    assert same(weights_of(first.model), weights_of(second.model)) <= (option != "bf16")
    assert second.model.is_activation_checkpointing == (option != "bf16")
    assert losses(first) == pytest.approx(losses(second), rel=0.05)


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_push_to_hub(strategy, hub, tmp_path):
    """Card, weights and processor arrive, and checkpoints where they are asked for."""
    options = {"push_to_hub": True, "hub_model_id": "user/contract", "hub_token": "hf_test", "hub_strategy": strategy}
    options |= {"hub_always_push": True, "save_strategy": "epoch", "save_total_limit": None}

    class Patience(TrainerCallback):  # the tiny training would overtake its pushes
        def on_save(self, args, state, control, **kwargs):
            trainer._finish_current_push()

    trainer = trainer_of(tmp_path / "run", callbacks=[Patience(), recorder := Recorder()], **options)
    trainer.train()
    progress = [f"Training in progress, epoch {epoch}" for epoch in (2, 1)]
    log = [message for message in hub.log("models", "user/contract") if message in progress]
    assert log == ([] if strategy == "end" else progress)
    trainer.push_to_hub(commit_message="Finished")
    files = hub.repos["models", "user/contract"]
    assert hub.log("models", "user/contract")[0] == "Finished"
    assert {"README.md", "model.safetensors", "preprocessor_config.json"} <= files.keys()
    assert not any(b"hf_test" in content for content in files.values())
    assert same(weights_of("user/contract"), recorder.weights[8])
    assert AutoImageProcessor.from_pretrained("user/contract").to_dict() == trainer.processing_class.to_dict()
    folders = {"checkpoint": {"last-checkpoint": 8}, "all_checkpoints": {"checkpoint-4": 4, "checkpoint-8": 8}}
    folders = folders.get(strategy, {})
    assert {name.split("/")[0] for name in files if "checkpoint" in name} == folders.keys()
    for name, step in folders.items():
        (tmp_path / name).mkdir()
        for path in (path for path in files if path.startswith(f"{name}/")):
            (tmp_path / path).write_bytes(files[path])
        assert same(weights_of(tmp_path / name), recorder.weights[step]) and f"{name}/optimizer.pt" in files
