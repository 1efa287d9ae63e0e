"""Time, memory, masks, input subsets and faults: tables and sentences of docs/reference.md and data.md, and of pages of experiments."""

from collections.abc import Callable, Sequence

from robust_vit_hf.results.intervals import Difference
from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark, commits_of


METHODS = ("cft", "energy", "finetune", "gradmask", "rrr")
COMMANDS = {
    "evaluate": "`evaluate`, with relevance maps",
    "diagnose": "`diagnose`, seven conditions and relevance",
    "masks tokencut": "`masks tokencut --coarse`",
}
SUBSETS = {"size": "pixels", "confidence": "probability", "revealed": "with neighbours", "all_masked": "all masked"}
WITH_MASKS = {"imagenet-segmentation", "imagenet-s919"}


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


def freed_memory() -> str:
    """CPU time of a forward pass, by what becomes of freed memory."""
    found = benchmark("freed_memory")
    took = {name: sum(of.values()) for name, of in found["milliseconds"].items()}
    models = ("EfficientNet-Lite0", "DINOv2-S")
    texts = [f"{took[f'{name}, kept']:.0f} instead of {took[f'{name}, returned']:.0f} with {name}" for name in models]
    return (
        f"In milliseconds of CPU time for each image, a forward pass of {found['images']} images at {found['pixels']} px in fp32 then takes "
        f"{', and '.join(texts)} (`python -m experiments freed_memory`, one core)."
    )


def loading() -> str:
    """Speed of loading as a ratio to decoding alone, by kind of set."""
    rows, found = [], benchmark("loading")["loader / decoding alone"]
    for label, names in {"images": found.keys() - WITH_MASKS, "images and masks": WITH_MASKS}.items():
        ratios = ([found[name][kind] for name in names] for kind in ("table", "stream"))
        rows.append([label, *(join((min(of), max(of))) for of in ratios)])
    return Table("", ["sets with", "loaded as a table", "streamed"], rows).markdown()


def evaluation() -> str:
    """Speed of an evaluation."""
    plain, maps = (of["ratio"] for of in benchmark("evaluation")["cases"].values())
    return (
        f"`evaluate` with a DeiT-S at 224 px reaches {plain:.2f} of the speed of a bare loop over the same batches in memory. With relevance maps, which "
        f"the loop computes too, and their metric, it reaches {maps:.2f} (`python -m experiments evaluation`)."
    )


def diagnosis() -> str:
    """Time of a diagnosis as a ratio to its forward passes."""
    vit, cnn = (benchmark(name)["ratio"] for name in ("backgrounds", "backgrounds_cnn"))
    return (
        f"With a DINOv2-S at 112 px (2 CPU cores, fp32), `diagnose` takes {vit:.2f} times as long as the forward passes alone: it also reads the images and "
        f"makes the composites of seven conditions. With an EfficientNet-Lite0 at 224 px (one core), it takes {cnn:.2f} times as long (`python -m experiments "
        "backgrounds --output_dir runs/benchmarks`). Large photographs take longer to decode."
    )


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


def whose_features() -> str:
    """IoU of masks from the classifier's features and from those of DINOv2-S."""
    found, rows = benchmark("mask_features"), []
    for name, of in found["whose"].items():
        ious = [cell for one in of.values() for cell in (f"{100 * one['iou']:.1f}", str(one["rejected"]))]
        rows.append([name, *ious, str(Difference(*of["DINOv2-S"]["difference"]))])
    head = ["images", "the classifier's features", "rejected", "DINOv2-S", "rejected", "difference"]
    rows.append(["all", *[""] * 4, str(Difference(*found["difference_over_all_sets"]))])
    return Table("", head, rows).markdown()


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
    "freed memory": freed_memory,
    "loading": loading,
    "evaluation": evaluation,
    "diagnosis": diagnosis,
    "many images": many_images,
    "whose features": whose_features,
    "pairs": pairs,
    "subsets": subsets,
    "soak": soak,
}
