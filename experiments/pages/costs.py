"""Time, memory, input subsets and faults: tables and sentences of docs/reference.md and of pages of experiments."""

from collections.abc import Callable, Sequence

from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark, commits_of


METHODS = ("cft", "energy", "finetune", "gradmask", "rrr")
COMMANDS = {
    "evaluate": "`evaluate`, with relevance maps",
    "diagnose": "`diagnose`, seven conditions and relevance",
    "masks tokencut": "`masks tokencut --coarse`",
}
SUBSETS = {"size": "pixels", "confidence": "probability", "revealed": "with neighbours", "all_masked": "all masked"}


def join(numbers: Sequence[float], sign: str = "–") -> str:
    """Numbers in one cell."""
    return sign.join(f"{number:.2f}" for number in numbers)


def steps() -> str:
    """Time and memory of a step, by model."""
    rows = []
    for name, of in benchmark("step").items():
        gib = [of["peak_memory_gib"][kind] for kind in ("robustvit", "released", "cross-entropy")]
        ratios = (of["released / ours"], of["method / plain"]["robustvit"])
        rows.append([f"{name}, batch {of['batch_size']}", *map(join, ratios), join(gib, ", ")])
    return Table("", ["", "released / ours", "ours / plain", "GiB: ours, released, plain"], rows).markdown()


def steps_of_methods() -> str:
    """The same of the other methods: median time as a ratio to plain finetuning, and GiB."""
    rows = [
        [name, *(join((of["method / plain"][one][1], of["peak_memory_gib"][one]), ", ") for one in METHODS)]
        for name, of in benchmark("step").items()
    ]
    return Table("", ["", *(f"`{name}`" for name in METHODS)], rows).markdown()


def many_tokens() -> str:
    """Time and memory of a step with held attentions and with linear memory, by size of the images."""
    rows = []
    for of in benchmark("linear_memory")["rows"]:
        gib = [of["GiB"][kind] for kind in ("held", "linear", "plain")]
        ratios = (of["held / plain"], of["linear / plain"])
        rows.append([f"{of['pixels']}, {of['tokens']}, {of['batch']}", *map(join, ratios), join(gib, ", ")])
    return Table("", ["pixels, tokens, batch", "held", "linear", "GiB: held, linear, plain"], rows).markdown()


def many_images() -> str:
    """Time and memory of whole commands on many images."""
    found, rows = benchmark("scale"), []
    for name, label in COMMANDS.items():
        of = found[name]
        times = (f"{of['milliseconds an image']:.1f}", f"{of['50,000 images, minutes']:.0f}")
        gib = (join((of["tenth, GiB"], of["all, GiB"]), ", "), f"{of['50,000 images, GiB']:.2f}")
        equal = "equal" if of["two processes equal one"] else "not equal"
        two = f"{equal}, in {of['two processes, seconds'] / of['all, seconds']:.2f} of the time"
        rows.append([label, *times, *gib, two])
    head = ["", "ms an image", "50,000 images, minutes", "GiB: a tenth, all", "50,000, extrapolated", "two processes"]
    of = found["improve"]
    return (
        f"{Table('', head, rows).markdown()}\n\n`improve` with {found['images']:,} training images, two composites each, takes "
        f"{of['all, CPU seconds']:.0f} seconds of one core with this model (`--commands improve --one_process`). Its peak memory is {of['all, GiB']:.2f} "
        f"GiB; with a tenth of the images, it is {of['tenth, GiB']:.2f}. Several commits were measured: {commits_of('scale')}, and {commits_of('step')}."
    )


def pairs() -> str:
    """Subsets of the figure of sis.md, in a sentence."""
    found = benchmark("subsets")
    of = found["figure"]
    size, probability, object_, image, revealed = (
        f"{100 * of[key]:.1f}" for key in ("size", "confidence", "foreground", "image_foreground", "revealed")
    )
    return (
        f"For the bundled model, this holds for {of['found'] * of['pairs']:.0f} of its {of['pairs']} pairs, in steps of {found['pixels_per_step']} "
        f"pixels. The subsets have {size} % of the pixels on average. They say little about what the image shows: the probability of a class that "
        f"is not in the image is {probability} %, based on pixels of which {object_} % lie on the object (which covers {image} % of the image). With "
        f"neighbouring pixels revealed, it is {revealed} %. A pair takes {found['seconds_of_one_pair']['wall']:.0f} s on 2 cores."
    )


def subsets() -> str:
    """Subsets before and after finetuning."""
    sets = benchmark("subsets")["sets"]
    sides = [sets["all"][side] for side in ("before", "after")]
    rows = [["subset found", *(f"{100 * of['found']:.1f}, of {of['pairs']}" for of in sides)]]
    rows += [[label, *(f"{100 * of[key]:.1f}" for of in sides)] for key, label in SUBSETS.items()]
    for name in ("val", "background_new"):
        both = sets[name].values()
        shares = (f"{100 * of['foreground']:.1f} ({100 * of['image_foreground']:.1f})" for of in both)
        rows.append([f"on the foreground, `{name}`", *shares])
    return Table("", ["%", "before", "after"], rows).markdown()


def soak() -> str:
    """Runs that finished in spite of faults, in a sentence."""
    runs = [benchmark("soak")[name] for name in ("improve", "sweep")]
    faults = sum(sum(of["faults"].values()) for of in runs)
    ends, equal = (sum(of[key] for of in runs) for key in ("ends", "equal to the unbroken run"))
    return (
        f"We interrupted runs of `improve` and `sweep` by {faults} faults at random moments (SIGTERM, SIGKILL or a full disk), and started them again after "
        f"each. {ends} runs finished, and {'all' if equal == ends else equal} of them are bit-identical to a run without faults (`python -m experiments soak "
        "--faults 24`)."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "steps": steps,
    "steps of methods": steps_of_methods,
    "many tokens": many_tokens,
    "many images": many_images,
    "pairs": pairs,
    "subsets": subsets,
    "soak": soak,
}
