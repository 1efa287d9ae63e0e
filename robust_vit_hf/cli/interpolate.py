"""Options of `robust-vit interpolate`."""

from typing import get_args

from ..evaluation.set_names import PAPER_SETS
from ..models.preprocessing import Preset
from ..utils.options import Range
from .parser import Parser, add_output_dir, add_pass_options, check_sets, named_source, number


DESCRIPTION = """Mix the weights of a model before and after finetuning, (1 - alpha) · BEFORE + alpha · AFTER (WiSE-FT,
https://huggingface.co/papers/2109.01903).

  robust-vit interpolate BEFORE AFTER --alpha 0.5 --output_dir runs/mixed
  robust-vit interpolate emoji-shift runs/emoji-shift --sweep --output_dir runs/sweep
  robust-vit interpolate BEFORE AFTER --sweep 0 0.25 0.5 0.75 1 --output_dir runs/sweep \\
      --in_distribution imagenet-1k=sets/imagenet-1k --shifted imagenet-a=sets/imagenet-a imagenet-r=sets/imagenet-r

The first command writes a model folder. The others measure mixtures, write `sweep.json` and plot it; all alphas see their images
through the preprocessing of AFTER, with which the mixture is saved. Alphas that are in `sweep.json` are not measured again."""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit interpolate", description=DESCRIPTION)
    parser.add_argument("before", help="the original model: name, folder or Hub id")
    parser.add_argument("after", help="the finetuned model")
    share = number(float, Range(0, 1))
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--alpha", type=share, help="write the mixture with this share of AFTER, from 0 to 1")
    task.add_argument(
        "--sweep", type=share, nargs="*", metavar="ALPHA", help="measure mixtures; without values, of 0, 0.1 … 1"
    )
    add_output_dir(parser)
    sweep = parser.add_argument_group("options of --sweep")
    for name in ("in_distribution", "shifted"):
        sweep.add_argument(
            f"--{name}",
            nargs="+",
            type=named_source,
            metavar="NAME[=PATH_OR_ID]",
            help=f"{name.replace('_', '-')} sets of the paper, each from the Hub or from the output of `robust-vit data "
            "prepare`; by default those of the benchmark with the classes of the models",
        )
    sweep.add_argument(
        "--protocol", choices=get_args(Preset), default="paper", help="see `robust-vit evaluate --help`"
    )
    add_pass_options(sweep)
    arguments = parser.parse_args(argv)
    before, after, alpha = arguments.before, arguments.after, arguments.alpha
    if alpha is not None:
        for name in ("in_distribution", "shifted", "protocol", "images_per_set", "batch_size", "num_workers"):
            if getattr(arguments, name) != parser.get_default(name):
                parser.error(f"--{name} is an option of --sweep")

        from ..models.interpolation import write_mixture

        write_mixture(before, after, alpha, arguments.output_dir)
        print(f"{arguments.output_dir}: {1 - alpha:g} · {before} + {alpha:g} · {after}")
        return
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

    from ..evaluation.interpolation_sweep import sweep_interpolations
    from ..utils.processes import make_accelerator

    options = {name: value for name, value in vars(arguments).items() if name not in ("alpha", "sweep")}
    alphas = arguments.sweep or [step / 10 for step in range(11)]
    table = sweep_interpolations(alphas=alphas, accelerator=make_accelerator(bf16=False), **options)
    print(
        f"\n{table}\nAn alpha that is chosen by these accuracies is not measured by them: choose it on other images.\n"
    )
    print(f"sweep.json, sweep.png and sweep.pdf: {arguments.output_dir}")
