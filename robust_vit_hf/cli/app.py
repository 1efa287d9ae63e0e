"""`robust-vit app`: serve the page."""

import signal
from dataclasses import replace
from pathlib import Path

from ..app.options import AppOptions
from ..models.model_names import BUNDLED_MODEL


def show(options: AppOptions) -> str:
    """Print the page's address and serve it until a signal, or export it as a Space and return instructions."""
    if options.export is not None:
        from ..app.export import write_space

        write_space(options.export, options.model, options.compare, options.protocol, options.diagnose)
        return f"{options.export}: upload it with `hf upload --repo-type space OWNER/NAME {options.export} .`"

    from ..app.samples import cached_run, newest_run
    from ..app.server import running
    from ..utils.processes import end_by_signals

    end_by_signals()  # so that the page's files are deleted
    if options.compare is None and options.model == BUNDLED_MODEL:
        after = newest_run(Path("runs"))
        if after is None:
            print("Without a finetuning in runs/, a cached one is shown, made once in about a minute.", flush=True)
            after = cached_run()
        options = replace(options, compare=str(after))
    with running(options) as address:
        print(f"The page is at {address} (Ctrl+C ends it).", flush=True)
        signal.pause()
    return ""
