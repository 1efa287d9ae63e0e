"""Parser of dataclasses of options, with a help of one screen and one-line errors."""

import argparse
import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from functools import partial
from shutil import get_terminal_size
from textwrap import dedent, fill, indent
from typing import NoReturn

from transformers import HfArgumentParser

from ..utils.options import Options, unknown
from ..utils.privacy import hide_tokens


# Options that `--help` shows; `--help_all` shows all.
COMMON = """folder source before after images model compare dataset split eval_split sets set masks results diagnose
    evaluation classes category in_distribution shifted repo_id sources config method effort other_backgrounds
    only_these_classes attributes num_images protocols methods weight weights per_class prompts detector segmenter
    threshold to image_size learning_rate num_train_epochs background_swap lora_rank per_device_train_batch_size
    batch_size port skip_bad output_dir json html fail_if export private revision commit_message report_to push_to_hub
    help help_all traceback version command""".split()


def parse(options: type[Options], prog: str, argv: list[str]) -> Options:
    """Parse arguments, or the values of a YAML or JSON file if its name is the only one. Exits after printing the help, or
    with status 2 if options are invalid."""
    words = [own.name for own in fields(options) if own.metadata.get("positional")]
    needed = [own.name for own in fields(options) if own.default is own.default_factory is MISSING]
    words += [f"--{name} …" for name in needed if name not in words]
    parser = Parser([options], prog, inspect.getdoc(options), argv, usage=" ".join([prog, *words, "[options]"]))
    return parser.parse(argv)[0]


class Parser(HfArgumentParser):
    """Parser with errors of one line, which quote no tokens. The help begins with the paragraphs of `text`. Those that begin
    with `prog` are examples, which end the help: only the first, unless `argv` has `--help_all`."""

    def __init__(self, options: Sequence[type], prog: str, text: str, argv: Sequence[str] = (), **settings):
        self.shows_all = not {"--help_all", "--help-all"}.isdisjoint(argv)
        parts, width = text.split("\n\n"), get_terminal_size().columns - 2
        described = "\n\n".join(fill(part, width) for part in parts if not part.lstrip().startswith(prog))
        if examples := "\n".join(part for part in parts if part.lstrip().startswith(prog)):
            shown = dedent(examples if self.shows_all else examples.partition("\n")[0])
            settings["epilog"] = f"for example:\n{indent(shown, '  ')}"
        formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        settings |= {"description": described, "formatter_class": formatter, "add_help": False, "allow_abbrev": False}
        super().__init__(options, prog=prog, **settings)
        self.add_argument("-h", "--help", action="help", help="show this help")
        if options:
            self.add_argument("--help_all", action="help", help="show all options and examples")
        # Only for the help: `main` handles the option.
        self.add_argument("--traceback", action="store_true", help="show the traceback of an error")

    def add_argument(self, *names: str, **settings) -> argparse.Action:
        """Add an option under the name with underscores, since dashes are accepted for them."""
        name, default = names[-1].lstrip("-").replace("-", "_"), settings.get("default")
        settings.pop("within", None)  # see [`option`]
        if not (self.shows_all or name in COMMON):
            settings["help"] = argparse.SUPPRESS
        elif default not in (None, "") and not isinstance(default, (bool, list, dict)):
            settings["help"] += "" if "default" in settings["help"] else f" (default: {default})"
        if not settings.pop("positional", not names[0].startswith("-")):
            return super().add_argument(*(names if names[0] == "-h" else [f"--{name}"]), **settings)
        if not settings.pop("required", False) and settings.get("nargs") == "+":
            settings["nargs"] = "*"
        return super().add_argument(name, **settings)

    def error(self, message: str) -> NoReturn:  # type: ignore[misc]  # `exit` does not return
        message = hide_tokens(" ".join(message.split()).rstrip("."))
        self.exit(2, f"error: {message}{'' if message.endswith('?') else '.'} See `{self.prog} --help`.\n")

    def parse_known_args(self, args=None, namespace=None):
        tokens = [re.sub(r"^--[^=]+", lambda name: f"--{name[0][2:].replace('-', '_')}", token) for token in args]
        if any(re.fullmatch(r"(--\w+=)?", token) for token in tokens):
            self.error("an argument is empty, as by a variable of the shell that is not set")
        known, rest = super().parse_known_args(tokens, namespace)
        if rest and rest[0].startswith("-"):
            names = [name for action in self._actions for name in action.option_strings]
            self.error(unknown("option", rest[0].partition("=")[0], names))
        return known, rest

    def parse(self, argv: list[str]) -> tuple:
        """The dataclasses, from arguments and defaults. Exits with status 2 if options are invalid."""
        try:
            if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")) and not self._get_positional_actions():
                read = self.parse_json_file if argv[0].endswith(".json") else self.parse_yaml_file
                return read(argv[0])
            return self.parse_args_into_dataclasses(argv, look_for_args_file=False)[: len(self.dataclass_types)]
        except (ValueError, OSError) as error:
            self.error(str(error))
