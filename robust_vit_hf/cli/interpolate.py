"""Options of `robust-vit interpolate`."""

import argparse
from typing import get_args

from ..evaluation.set_names import PAPER_SETS
from ..models.presets import Preset
from .parser import Parser, add_evaluation_options, add_output_dir, check_sets, named_source


DESCRIPTION = """Mix the weights of a model before and after finetuning, (1 - alpha) · BEFORE + alpha · AFTER (WiSE-FT,
https://huggingface.co/papers/2109.01903).

  robust-vit interpolate BEFORE AFTER --alpha 0.5 --output_dir runs/mixed
  robust-vit interpolate emoji-shift runs/emoji-shift --sweep --output_dir runs/sweep
  robust-vit interpolate BEFORE AFTER --sweep 0 0.25 0.5 0.75 1 --output_dir runs/sweep \\
      --in_distribution imagenet-1k=sets/imagenet-1k --shifted imagenet-a=sets/imagenet-a imagenet-r=sets/imagenet-r

The first command writes a model folder. The others measure mixtures, write `sweep.json` and plot it; all alphas see their images
through the preprocessing of AFTER, with which the mixture is saved. Alphas that are in `sweep.json` are not measured again."""
ROLES = {"in_distribution": "in-distribution", "shifted": "shifted"}
ALPHAS = tuple(step / 10 for step in range(11))


def run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)
    if arguments.alpha is not None:
        from ..models.interpolation import write_mixture

        write_mixture(arguments.before, arguments.after, arguments.alpha, arguments.output_dir)
        alpha, names = arguments.alpha, (arguments.before, arguments.after)
        print(f"{arguments.output_dir}: {1 - alpha:g} · {names[0]} + {alpha:g} · {names[1]}")
        return

    from ..evaluation.interpolation_sweep import sweep_interpolations
    from ..utils.processes import make_accelerator

    named_sets = {role: getattr(arguments, role) for role in ROLES}
    table = sweep_interpolations(
        arguments.before,
        arguments.after,
        arguments.sweep,
        arguments.output_dir,
        make_accelerator(bf16=False),
        named_sets=named_sets if arguments.shifted else None,
        protocol=arguments.protocol,
        images_per_set=arguments.images_per_set,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
    )
    print(
        f"\n{table}\nAn alpha that is chosen by these accuracies is not measured by them: choose it on other images.\n"
    )
    print(f"sweep.json, sweep.png and sweep.pdf: {arguments.output_dir}")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="robust-vit interpolate", description=DESCRIPTION)
    parser.add_argument("before", help="the original model: name, folder or Hub id")
    parser.add_argument("after", help="the finetuned model")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--alpha", type=_alpha, help="write the mixture with this share of AFTER, from 0 to 1")
    task.add_argument(
        "--sweep", type=_alpha, nargs="*", metavar="ALPHA", help="measure mixtures; without values, of 0, 0.1 … 1"
    )
    add_output_dir(parser)
    sweep = parser.add_argument_group("options of --sweep")
    for role, title in ROLES.items():
        sweep.add_argument(
            f"--{role}",
            nargs="+",
            type=named_source,
            metavar="NAME[=PATH_OR_ID]",
            help=f"{title} sets of the paper, each from its place on the Hub or from what `robust-vit data prepare` wrote; by "
            "default those of the benchmark that has the classes of the models",
        )
    sweep.add_argument(
        "--protocol", choices=get_args(Preset), default="paper", help="see `robust-vit evaluate --help`"
    )
    add_evaluation_options(sweep)
    arguments = parser.parse_args(argv)

    if arguments.alpha is not None:
        options = [*ROLES, "protocol", "images_per_set", "batch_size", "num_workers"]
        if given := [name for name in options if getattr(arguments, name) != parser.get_default(name)]:
            parser.error(f"--{given[0]} is an option of --sweep")
        return arguments
    arguments.sweep = sorted(set(arguments.sweep or ALPHAS))
    if (arguments.in_distribution is None) != (arguments.shifted is None):
        parser.error("--in_distribution and --shifted are given together, or neither")
    if arguments.shifted is not None:
        named = [*arguments.in_distribution, *arguments.shifted]
        if others := [name for name, _ in named if name not in PAPER_SETS]:
            known = ", ".join(PAPER_SETS)
            parser.error(
                f"unknown set `{others[0]}`: expected {known}. Those of a benchmark are taken where none are named"
            )
        check_sets(parser, named)
    return arguments


def _alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number") from None
    if not 0 <= alpha <= 1:
        raise argparse.ArgumentTypeError(
            f"alpha is {alpha}; expected a number from 0 (the model before) to 1 (the model after)"
        )
    return alpha
