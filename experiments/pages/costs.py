"""Time, memory, input subsets and faults: tables and sentences of docs/reference.md and of pages of experiments."""

from collections.abc import Callable, Sequence

from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark, commits_of, text


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
    return text(
        "many-images",
        table=Table("", head, rows).markdown(),
        images=found["images"],
        seconds=of["all, CPU seconds"],
        memory=of["all, GiB"],
        tenth=of["tenth, GiB"],
        scale=commits_of("scale"),
        step=commits_of("step"),
    )


def pairs() -> str:
    """Subsets of the figure of sis.md, in a sentence."""
    found = benchmark("subsets")
    of = found["figure"]
    shares = {"size": "size", "probability": "confidence", "object": "foreground", "image": "image_foreground"}
    shown = {name: f"{100 * of[key]:.1f}" for name, key in (shares | {"revealed": "revealed"}).items()}
    seconds = found["seconds_of_one_pair"]["wall"]
    counts = {"found": of["found"] * of["pairs"], "pairs": of["pairs"], "step": found["pixels_per_step"]}
    return text("pairs", seconds=seconds, **counts, **shown)


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
    outcome, met = runs[0]["its outcome"], "faults met its training too, and that of `sweep`"
    if outcome == "already_robust":  # nothing was trained
        met = "its faults met masks, features and the diagnosis; those of `sweep` met the training"
    return text("soak", faults=faults, ends=ends, equal="all" if equal == ends else equal, outcome=outcome, met=met)


BLOCKS: dict[str, Callable[[], str]] = {
    "steps": steps,
    "steps of methods": steps_of_methods,
    "many tokens": many_tokens,
    "many images": many_images,
    "pairs": pairs,
    "subsets": subsets,
    "soak": soak,
}
