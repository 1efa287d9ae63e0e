"""Mix the weights of a model before and after finetuning, (1 − alpha) · before + alpha · after, as WiSE-FT does
(https://huggingface.co/papers/2109.01903). The mixture runs at the cost of one model, and has often much of the gain under
shift while it keeps the accuracy on the training distribution.

    python -m robust_vit_hf.interpolate BEFORE AFTER --alpha 0.5 --output_dir runs/mixed
    python -m robust_vit_hf.interpolate emoji-shift runs/emoji-shift --sweep --output_dir runs/sweep
    python -m robust_vit_hf.interpolate BEFORE AFTER --sweep 0 0.25 0.5 0.75 1 --output_dir runs/sweep \\
        --in_distribution imagenet-1k=sets/imagenet-1k --shifted imagenet-a=sets/imagenet-a imagenet-r=sets/imagenet-r

The first command writes a model folder. The others measure mixtures, write `sweep.json` and plot it; all alphas see their images
through the preprocessing of AFTER, with which the mixture is saved. Alphas that are in `sweep.json` are not measured again.
"""

import argparse
import copy
import json
import math
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoImageProcessor, PreTrainedModel

from .emoji_shift import CLASS_NAMES, SHIFTED, load_evaluation_sets
from .evaluation import PRESETS, EvaluationSet, evaluate_sets, load_evaluation_set
from .evaluation.kept import MADE_BY_FILE, check_made_by, write_made_by
from .evaluation.plots import COLOURS
from .evaluation.published import PAPER_SETS
from .evaluation.tables import Table, percent
from .files import public_name, whole_file, whole_folder, write_atomically
from .models import EMOJI_SHIFT, ZOO, is_timm, load_model, load_processor, weights_digest


ALPHAS = tuple(step / 10 for step in range(11))
INTERPOLATION_FILE, SWEEP_FILE = "interpolation.json", "sweep.json"
ROLES = {"in_distribution": "in-distribution", "shifted": "shifted"}  # of the sets of a sweep, and how they are shown


# -- Weights ----------------------------------------------------------------------------------------------------------


def interpolate(before: PreTrainedModel, after: PreTrainedModel, alpha: float) -> PreTrainedModel:
    """Model with the weights (1 − alpha) · before + alpha · after, https://huggingface.co/papers/2109.01903.

    Args:
        before, after: two models of one architecture, the second finetuned from the first.
        alpha: 0 gives the weights of `before` and 1 those of `after`, bit by bit.

    Returns:
        A copy of `after` (its configuration, dtype, device and mode) in which floating-point parameters and buffers are
        mixed, computed in fp32, or in fp64 where they are fp64. Neither model is changed.

    Raises:
        ValueError: alpha outside [0, 1], or models that do not fit, see [`check_alike`].
    """
    check_alpha(alpha)
    check_alike(before, after)
    start, end, mixed = before.state_dict(), after.state_dict(), copy.deepcopy(after)
    with torch.no_grad():
        for name, tensor in mixed.state_dict().items():
            if alpha == 1 or not tensor.is_floating_point():
                continue
            value = start[name].to(tensor.device)
            # At alpha 0, `lerp` would lose the sign of a zero. Half precision it computes in fp32 by itself.
            tensor.copy_(value if alpha == 0 else torch.lerp(value, end[name], alpha))
    return mixed


def check_alpha(alpha: float) -> None:
    """Raise a `ValueError` for an alpha outside [0, 1], which would extrapolate."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected a number from 0 (the model before) to 1 (the model after).")


def check_alike(before: PreTrainedModel, after: PreTrainedModel) -> None:
    """Refuse models whose mixed weights would mean nothing.

    Raises:
        ValueError: a model with an adapter; another architecture, number of classes or label names; weights of other names,
            shapes or dtypes, the first of which are named; or integer buffers that are not equal.
    """
    for side, model in (("before", before), ("after", after)):
        if hasattr(model, "peft_config"):
            raise ValueError(
                f"The model {side} has a PEFT adapter, whose factors cannot be mixed like weights. Merge it first: "
                "`PeftModel.from_pretrained(…).merge_and_unload()`, then `save_pretrained`."
            )
    remedy = "Give the model that the other one was finetuned from."
    settings = ("num_labels", "num_attention_heads", "hidden_act", "layer_norm_eps")  # not all show in the weights
    facts = [
        {"architecture": type(model).__name__} | {name: getattr(model.config, name, None) for name in settings}
        for model in (before, after)
    ]
    for name, value in facts[0].items():
        if facts[1][name] != value:
            raise ValueError(f"`{name}` is {value} before and {facts[1][name]} after: expected the same. {remedy}")
    names, others = before.config.id2label, after.config.id2label
    if differing := [label for label in names | others if names.get(label) != others.get(label)]:
        label = differing[0]
        raise ValueError(
            f"The models have other `id2label` for {len(differing)} classes: {label} is `{names.get(label)}` before and "
            f"`{others.get(label)}` after. If the classes are the same, copy `id2label` and `label2id` from one "
            "`config.json` to the other; otherwise the heads cannot be mixed."
        )
    start, end = before.state_dict(), after.state_dict()
    kinds = [
        {name: f"{tuple(value.shape)} {value.dtype}".replace("torch.", "") for name, value in state.items()}
        for state in (start, end)
    ]
    differing = [name for name in kinds[0] | kinds[1] if kinds[0].get(name) != kinds[1].get(name)]
    if differing:
        first = "; ".join(
            f"`{name}` is {kinds[0].get(name, 'missing')} before and {kinds[1].get(name, 'missing')} after"
            for name in differing[:3]
        )
        raise ValueError(f"{len(differing)} weights do not fit: {first}. {remedy} Load both with the same `dtype`.")
    for name, value in start.items():
        if not value.is_floating_point() and not torch.equal(value, end[name].to(value.device)):
            raise ValueError(f"The integer buffer `{name}` differs, and cannot be mixed. {remedy}")


# -- Sweep ------------------------------------------------------------------------------------------------------------


def sweep_table(sweep: dict) -> Table:
    """A row an alpha: top-1 of each set, and the mean of the shifted ones, in per cent.

    Args:
        sweep: what `sweep.json` holds, with alphas as numbers, in ascending order.
    """
    names = [*sweep["in_distribution"], *sweep["shifted"]]
    rows = [
        [f"{alpha:g}", *(percent(row["top1"][name]) for name in names), percent(row["mean_shifted"])]
        for alpha, row in sweep["alphas"].items()
    ]
    return Table("Top-1, in per cent", ["alpha", *names, "mean of the shifted sets"], rows)


def save_sweep_figure(sweep: dict, folder: Path) -> None:
    """Plot top-1 in-distribution and shifted: over alpha, and against each other with the points named by alpha, as in
    Figure 1 of https://huggingface.co/papers/2109.01903. Several sets are shown by their mean.

    Args:
        sweep: as for [`sweep_table`].
        folder: where `sweep.png` and `sweep.pdf` go; it exists.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    points = np.array([[100 * row[f"mean_{role}"] for role in ROLES] for row in sweep["alphas"].values()])
    names = [
        f"{title} ({sweep[role][0] if len(sweep[role]) == 1 else f'mean of {len(sweep[role])} sets'})"
        for role, title in ROLES.items()
    ]
    figure, (over, against) = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
    for name, values, colour in zip(names, points.T, (COLOURS["control"], COLOURS["after"]), strict=True):
        over.plot(list(sweep["alphas"]), values, marker="o", markersize=4, label=name, color=colour)
    over.set(xlabel="alpha (0: before, 1: after)", ylabel="top-1, %")
    against.plot(*points.T, marker="o", markersize=4, color=COLOURS["before"])
    # Room for labels, and two points of accuracy at least, so that noise does not fill an axis.
    middle, half = (points.max(0) + points.min(0)) / 2, np.maximum(1, 0.7 * np.ptp(points, axis=0))
    xlim, ylim = np.stack([middle - half, middle + half], axis=1).clip(-0.4, 100.4)
    against.set(xlim=xlim, ylim=ylim, xlabel=f"top-1 {names[0]}, %", ylabel=f"top-1 {names[1]}, %")
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    against.locator_params(nbins=6)
    against.set_title("numbers at the points: alpha", fontsize=9)
    for axis in (over, against):
        axis.spines[["top", "right"]].set_visible(False)

    # Each label takes the nearest place that is free of the line, its points, and other labels, and nearest to its own
    # point if there is such a place; equal points share a label.
    labels: dict[tuple[float, float], list[str]] = {}
    for alpha, point in zip(sweep["alphas"], points, strict=True):
        labels.setdefault(tuple(point), []).append(f"{alpha:g}")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the axes stay where they are
    corners = against.transData.transform(points)
    steps = np.linspace(0, len(points) - 1, 30 * len(points))
    line = [np.interp(steps, range(len(points)), values) for values in corners.T]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in zip(*line, strict=True)]
    for point, shared in labels.items():
        label = against.annotate(
            ", ".join(shared), point, textcoords="offset points", xytext=(0, 0), ha="center", va="center", fontsize=9,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": COLOURS["before"], "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        for nearest, radius, angle in product((True, False), range(8, 80, 4), range(90, 450, 45)):
            label.set_position((radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle))))
            label.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(label).padded(2)  # without the line to the point
            inside = against.bbox.contains(*box.min) and against.bbox.contains(*box.max)
            distances = np.linalg.norm(corners - (box.min + box.max) / 2, axis=1)
            strays = nearest and not np.array_equal(points[distances.argmin()], point)
            if inside and not strays and not any(map(box.overlaps, taken)):
                break
        taken.append(box)
    for suffix in ("png", "pdf"):
        with whole_file(folder / f"sweep.{suffix}") as partial:
            figure.savefig(partial, dpi=120, format=suffix)
    plt.close(figure)


# -- Command ----------------------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m robust_vit_hf.interpolate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("before", help=f"folder or Hub id of the original model, or `{EMOJI_SHIFT}`")
    parser.add_argument("after", help="folder or Hub id of the finetuned model")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--alpha", type=float, help="write the mixture with this share of AFTER, from 0 to 1")
    task.add_argument(
        "--sweep", type=float, nargs="*", metavar="ALPHA", help="measure mixtures; without values, of 0, 0.1 … 1"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    sweep = parser.add_argument_group("options of --sweep")
    for role, title in ROLES.items():
        sweep.add_argument(
            f"--{role}",
            nargs="+",
            metavar="NAME[=PATH_OR_ID]",
            help=f"{title} sets of the paper, each from its place on the Hub or from what `python -m robust_vit_hf.data "
            f"prepare` wrote; by default those of {EMOJI_SHIFT}",
        )
    sweep.add_argument("--protocol", choices=list(PRESETS), default="paper", help="see eval/README.md")
    sweep.add_argument("--images_per_set", type=int, default=200, help=f"{EMOJI_SHIFT}: images of each set")
    sweep.add_argument("--batch_size", type=int, default=32, help="images that a process takes at once")
    sweep.add_argument("--num_workers", type=int, default=0, help="processes that read images, of each process")
    arguments = parser.parse_args(argv)

    if arguments.alpha is not None:
        options = [*ROLES, "protocol", "images_per_set", "batch_size", "num_workers"]
        if given := [name for name in options if getattr(arguments, name) != parser.get_default(name)]:
            parser.error(f"--{given[0]} is an option of --sweep")
        return arguments
    arguments.sweep = sorted(set(arguments.sweep or ALPHAS))
    if (arguments.in_distribution is None) != (arguments.shifted is None):
        parser.error("--in_distribution and --shifted are given together, or neither")
    if arguments.in_distribution is not None:
        names = [spec.partition("=")[0] for spec in (*arguments.in_distribution, *arguments.shifted)]
        if len(set(names)) < len(names):
            parser.error(f"a set is named twice: {', '.join(names)}")
        if unknown := [name for name in names if name not in PAPER_SETS]:
            parser.error(f"unknown set `{unknown[0]}`: expected {', '.join(PAPER_SETS)}")
    return arguments


def write_mixture(before: str, after: str, alpha: float, output: Path) -> None:
    """Write a mixture as a model folder, whole or not at all, with the image processor of `after` and
    `interpolation.json`.

    Args:
        before, after: folder, Hub id, or `emoji-shift`.

    Raises:
        FileExistsError: `output` holds something, which is seen before a model is loaded.
        ValueError: as [`interpolate`].
        OSError: there is no such model, or no image processor is saved with `after`.
    """
    made_by = {"alpha": alpha, "before": public_name(before), "after": public_name(after)}
    with whole_folder(output) as folder:
        mixed = interpolate(load_model(before), load_model(after), alpha)
        source = ZOO.get(after, after)
        if source == EMOJI_SHIFT or is_timm(source):  # they come without an image processor of transformers
            processor = load_processor(source, "paper" if source == EMOJI_SHIFT else "native", mixed)
        else:
            processor = AutoImageProcessor.from_pretrained(source)
        mixed.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_atomically(folder / INTERPOLATION_FILE, json.dumps(made_by, indent=2) + "\n")
    print(f"{output}: {1 - alpha:g} · {made_by['before']} + {alpha:g} · {made_by['after']}")


def load_sets(arguments: argparse.Namespace, model: PreTrainedModel) -> tuple[dict, dict[str, EvaluationSet]]:
    """Names of the sets of each role, and for each set its source; and the sets, each of which fits the model."""
    if arguments.in_distribution is None:
        if tuple(model.config.id2label.values()) != CLASS_NAMES:
            raise ValueError(
                f"These models have other classes than {EMOJI_SHIFT}: name their sets with --in_distribution and --shifted."
            )
        sets = {
            name: EvaluationSet.of(dataset, num_classes=len(CLASS_NAMES))
            for name, dataset in load_evaluation_sets(arguments.images_per_set).items()
        }
        sources = {"in_distribution": {"val": EMOJI_SHIFT}, "shifted": dict.fromkeys(SHIFTED, EMOJI_SHIFT)}
    else:
        specs = {role: [spec.partition("=") for spec in getattr(arguments, role)] for role in ROLES}
        sources = {role: {name: source for name, _, source in part} for role, part in specs.items()}
        sets = {
            name: load_evaluation_set(name, source or None, arguments.protocol)
            for part in sources.values()
            for name, source in part.items()
        }
    for name, rows in sets.items():
        rows.check_model(name, model.config.num_labels)
    return sources, sets


def run_sweep(arguments: argparse.Namespace) -> None:
    """Measure what is missing in `sweep.json`, alpha by alpha, and plot and print all of it."""
    output = arguments.output_dir
    if output.is_dir() and any(output.iterdir()) and not (output / MADE_BY_FILE).is_file():
        raise ValueError(f"`{output}` holds something other than a sweep. Choose another --output_dir, or delete it.")
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("The plot needs matplotlib: pip install 'robust-vit-hf[train]'")
    before, after = load_model(arguments.before), load_model(arguments.after)
    check_alike(before, after)
    processor = load_processor(arguments.after, PRESETS[arguments.protocol], after)
    sources, sets = load_sets(arguments, after)

    # What an accuracy depends on. Names of models are left out: the same weights may lie in another folder now.
    made_by = {f"weights_{side}": weights_digest(model) for side, model in (("before", before), ("after", after))}
    made_by |= {"protocol": arguments.protocol, "processor": json.loads(processor.to_json_string()), "sets": {}}
    for role, part in sources.items():
        for name, source in part.items():
            made_by["sets"][name] = {
                "role": role,
                "source": public_name(source) if source else None,
                "images": len(sets[name].dataset),
                "rows": sets[name].digest(),
            }
    check_made_by(output, made_by)

    sweep = {side: public_name(getattr(arguments, side)) for side in ("before", "after")}
    sweep |= {role: list(part) for role, part in sources.items()} | {"alphas": {}}
    if (output / SWEEP_FILE).is_file():
        known = json.loads((output / SWEEP_FILE).read_text(encoding="utf-8"))["alphas"]
        sweep["alphas"] = {float(alpha): row for alpha, row in known.items()}  # JSON has no numbers as keys
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    for alpha in arguments.sweep:
        if alpha in sweep["alphas"]:
            continue
        # As sets without labels they need none of the metric scripts, which an installed package does not have.
        results = evaluate_sets(
            interpolate(before, after, alpha).to(accelerator.device),
            {name: replace(rows, accepted=None) for name, rows in sets.items()},
            processor,
            accelerator,
            metrics="",
            relevance=False,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            description=f"alpha {alpha:g}",
        )
        labelled = {name: replace(result, accepted=sets[name].accepted) for name, result in results.items()}
        top1 = {name: float(result.correct()[result.usable].mean()) for name, result in labelled.items()}
        means = {f"mean_{role}": sum(top1[name] for name in part) / len(part) for role, part in sources.items()}
        sweep["alphas"] = dict(sorted({**sweep["alphas"], alpha: {"top1": top1, **means}}.items()))
        write_made_by(output, made_by)
        write_atomically(output / SWEEP_FILE, json.dumps(sweep, indent=2) + "\n")
    save_sweep_figure(sweep, output)
    table = sweep_table(sweep)
    print(f"\n{table.title}:\n\n{table.markdown()}\n")
    print("An alpha that is chosen by these accuracies is no longer measured by them: choose it on other images.\n")
    print(f"{SWEEP_FILE}, sweep.png and sweep.pdf: {output}")


def main(argv: list[str]) -> None:
    arguments = parse_arguments(argv)
    for alpha in arguments.sweep or [arguments.alpha]:
        check_alpha(alpha)
    if arguments.alpha is None:
        run_sweep(arguments)
    else:
        write_mixture(arguments.before, arguments.after, arguments.alpha, arguments.output_dir)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")  # those of transformers have several lines
