"""Options of `robust-vit app`."""

import signal
from pathlib import Path
from typing import get_args

from ..models.preprocessing import Preset
from ..models.registry import BUNDLED_MODEL
from ..utils.options import Range
from .parser import Parser, named_source, number


DESCRIPTION = """Look at two models, before and after finetuning, in a page: relevance maps of your own images, of examples and of evaluated
sets.

  robust-vit app                                                     the bundled model, and its newest finetuning in runs/
  robust-vit app --model vit-b --compare runs/vit-b
  robust-vit app --compare runs/emoji-shift --results runs/robustness
  robust-vit app --model OWNER/BEFORE --compare OWNER/AFTER --export space

Without --compare and without a finetuning in runs/, the bundled model is finetuned once, in about a minute, and kept in the cache of
`datasets`."""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit app", description=DESCRIPTION)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="name, folder or Hub id; the bundled model by default")
    parser.add_argument("--compare", help="the model after finetuning")
    parser.add_argument("--preset", choices=get_args(Preset), default="paper", help="preprocessing of the images")
    gallery = parser.add_argument_group("options of the gallery")
    gallery.add_argument(
        "--results",
        type=Path,
        help="output of `robust-vit evaluate`; without it, the sets of the bundled benchmark are measured in the page",
    )
    gallery.add_argument("--dataset", help="images of your own that were evaluated")
    gallery.add_argument("--split", default="validation", help="split of --dataset")
    gallery.add_argument(
        "--sets", nargs="+", type=named_source, default=[], metavar="NAME=PATH_OR_ID", help="sets that were evaluated"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1). Elsewhere than on loopback, no other models can be loaded in the page",
    )
    parser.add_argument(
        "--port", type=number(int, Range(1, 65535)), help="port (default: the first free one from 7860 on)"
    )
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write a Space of the page, and do not serve it")
    arguments = parser.parse_args(argv)
    if arguments.model != BUNDLED_MODEL and arguments.compare is None:
        parser.error("--compare names the model after finetuning")
    if arguments.export is not None:
        if arguments.compare is None:
            parser.error("--export needs --compare, the Hub id of the model after finetuning")

        from ..app.export import write_space

        write_space(arguments.export, arguments.model, arguments.compare, arguments.preset)
        print(f"{arguments.export}: upload it with `hf upload --repo-type space OWNER/NAME {arguments.export} .`")
        return

    from ..app.bundled import cached_run, newest_run
    from ..app.gallery import Sources
    from ..app.server import running
    from ..utils.processes import use_all_cores
    from .train import parse_arguments

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the files of the page go then, too
    use_all_cores()
    after = arguments.compare or newest_run(Path("runs"))
    if after is None:
        print(
            "Without a finetuning in runs/, the cached one is shown, which is made once in about a minute.", flush=True
        )
        after = cached_run(parse_arguments)
    sources = Sources(arguments.results, arguments.dataset, arguments.split, dict(arguments.sets))
    with running(arguments.model, str(after), arguments.preset, sources, arguments.host, arguments.port) as address:
        print(f"The page is at {address} (Ctrl+C ends it).", flush=True)
        signal.pause()
