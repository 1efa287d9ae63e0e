"""`robust-vit improve`: from a model and photographs to a better model, or to the advice to keep it."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
import torch
import xxhash
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ..data.dataset_digest import dataset_identity
from ..data.draw_images import choose_images, turns_within_classes
from ..data.find_images import Images, UnknownSplit, find_images
from ..data.layouts.hub_tables import has_parquet
from ..data.schema import undecoded, undecoded_rows
from ..diagnosis.diagnose import DiagnosisReport, measure_images
from ..diagnosis.diagnose import write_report as write_diagnosis
from ..diagnosis.options import DiagnoseOptions
from ..diagnosis.verdict import Diagnosis
from ..evaluation.before_after_examples import EXAMPLES_FILE, galleries
from ..evaluation.finetuning_results import FIGURE_FILE, write_report
from ..evaluation.measurements.accuracy import Accuracy, measure_accuracy
from ..evaluation.measurements.base import measure
from ..evaluation.measurements.other_backgrounds import Backgrounds
from ..evaluation.options import PairOptions
from ..evaluation.session import Session, Side, open_session
from ..evaluation.sets import EvaluationSet, group_shares, groups_of
from ..evaluation.write_results import TABLES_FILE
from ..hub.model_card import CARD_FILE, write_card
from ..masks.own_masks import MaskedImages, masked_images, one_mask_maker
from ..models.loading import load_model
from ..models.model_digest import weights_digest
from ..models.model_names import resolve
from ..models.weight_mixture import INTERPOLATION_FILE, interpolate
from ..relevance.relevance_map import forward_logits
from ..results.bootstrap import Difference
from ..results.choice import choose
from ..results.html_page import PAGE_FILE, Section, write_page
from ..results.markdown_latex import Table
from ..results.run_results import Run
from ..results.run_summary import class_changes
from ..results.run_tables import tables_of
from ..training.background_swap import BackgroundPool
from ..utils.files import (
    RESULTS_FILE,
    RUN_FILE,
    check_output_dir,
    read_json,
    weights_written,
    write_atomically,
    write_json,
)
from ..utils.images import input_size
from ..utils.public_names import public_name
from ..utils.stage import Stage
from .candidates import (
    FINALISTS,
    FIRST_MIXTURES,
    MIXTURES,
    Candidate,
    Measured,
    candidates_table,
    finalists,
    first_candidates,
)
from .options import ImproveOptions
from .trials import CANDIDATE_FILE, Trials, check_counts


SECONDS_PER_MASK = 0.1  # of TokenCut with a ViT-S on two cores
CHOOSING_IMAGES = 200  # at most, of the validation images
CANDIDATES_FOLDER, DIAGNOSIS_FOLDER, MASKS_FOLDER = "candidates", "diagnosis", "masks"
OUTCOMES = {
    "helped": "It helped",
    "costly": "It helped on other backgrounds, and costs more at home than --max_loss: keep your model, or allow it",
    "too few": "Too few images to tell whether it helped",
    "worse": "It did not help: keep your model",
    "kept": "It did not help: keep your model. No candidate that --max_loss allows was clearly better on the images that choose",
}
INPUTS_FILE = "inputs.json"  # what all in the folder was made from
VERDICT_FILE, CANDIDATES_FILE = "verdict.json", "candidates.md"
MODEL_FILES = ("config.json", "model.safetensors", RUN_FILE, RESULTS_FILE, CARD_FILE, INTERPOLATION_FILE)


@dataclass(frozen=True)
class Improvement:
    """Result of [`improve`]. As text, the verdict, tables and folder.

    Args:
        max_loss: points of top-1 that the images as they are may lose.
        diagnosis: the models before and, unless no candidate was better, after.
        candidates: table of all candidates.
        home: tables of top-1, relevance and calibration on the images as they are; none if no candidate was better.
        notes: what was decided about the images, and what stands in the way.
        folder: the model folder.
    """

    max_loss: float
    diagnosis: DiagnosisReport
    candidates: Table
    home: list[Table]
    notes: list[str]
    folder: Path

    @cached_property
    def _changes(self) -> dict[str, Difference] | None:
        """Changes of the measures; `None` if no candidate was better."""
        diagnoses = self.diagnosis.diagnoses
        return diagnoses["after"].change_from(diagnoses["before"]) if "after" in diagnoses else None

    @property
    def outcome(self) -> str:
        """One of [`OUTCOMES`], from the intervals on images that chose nothing."""
        if self._changes is None:
            return "kept"
        gain, home = self._changes["mixed_rand"], self._changes["original"]
        if gain.high < 0:
            return "worse"
        if gain.low <= 0:
            return "too few"
        return "costly" if home.high < -self.max_loss / 100 else "helped"

    @property
    def verdict(self) -> str:
        """What to do, and the evidence for it."""
        diagnoses, text = self.diagnosis.diagnoses, OUTCOMES[self.outcome]
        if self._changes is None:
            return f"{text}. {diagnoses['before'].sentence}"
        return (
            f"{text}: top-1 on the backgrounds of other classes changes by {self._changes['mixed_rand']} points, and by "
            f"{self._changes['original']} on the images as they are.\nBefore: {diagnoses['before'].sentence}\nAfter: "
            f"{diagnoses['after'].sentence}"
        )

    @property
    def table(self) -> Table:
        """The measures before and after."""
        return self.diagnosis.table

    def figure(self) -> Figure:
        """Images in all conditions, with the predictions before and after."""
        return self.diagnosis.figure()

    def __str__(self) -> str:
        parts = [self.verdict, *self.notes, f"{self.table.title}:", self.table.markdown()]
        for table in (*(self.home or self.diagnosis.groups), self.candidates):
            parts += [f"{table.title}:", table.markdown()]
        kept = "the model, its card, results" if self.home else "no model, since yours is to be kept,"
        parts.append(f"{self.folder}: {kept} and {PAGE_FILE}; the diagnosis is in {self.diagnosis.folder}.")
        return "\n\n".join(["", *parts])


def improve(model: str, dataset: str, output_dir: str | Path, **options) -> Improvement:
    """Finetune a model so that it decides by the object, see [`run_improvement`].

    Args:
        model: name, folder or Hub id.
        dataset: labelled images, as for `robust-vit improve`.
        options: others of [`ImproveOptions`].
    """
    options["output_dir"] = output_dir  # which the options turn into a path
    return run_improvement(ImproveOptions(model=model, dataset=dataset, **options))


def run_improvement(options: ImproveOptions) -> Improvement:
    """Masks, candidates, choice, model and diagnosis, in one process. What is complete in the output folder is skipped.

    Raises:
        ValueError: model, images or masks do not fit together, the folder holds results of other inputs, or several
            processes were launched.
        OSError: a model or set does not exist, or another process is writing to the output folder.
    """
    folder = options.output_dir
    _check_folder(options)
    stage = Stage(folder, {"command": "improve"})
    with open_session(PairOptions(model=options.model), options.preset, stage, bf16=options.bf16) as opened:
        if opened.accelerator.num_processes > 1:
            raise ValueError(
                "`improve` works in one process: leave out `accelerate launch`, or train the candidate that it names with "
                "`robust-vit train` on several."
            )
        session = replace(opened, folder=folder / "predictions")
        train, validation, notes, weights = _load(options)
        choosing, reporting = _halves(validation.rows, options)
        parts = {"train": train.rows, "choosing": choosing, "reporting": reporting}
        _check_inputs(options, session, parts)
        _say(0, f"{public_name(options.model)}, {_estimate(session, options, parts)} in all")
        _say(1, f"Masks of {len(train.rows)} training and {len(choosing) + len(reporting)} validation images")
        with one_mask_maker():
            masked = {name: _masked(replace(train, rows=rows), name, options, session) for name, rows in parts.items()}
        masked["reporting"] = replace(masked["reporting"], group_weights=weights)
        notes += [f"`{name}`: {note}" for name in ("train", "choosing") for note in masked[name].notes]
        if len(masked["train"].dataset.with_format(None).unique("label")) == 1:
            notes.append(
                "The training images are all of one class: a swap gives them the backgrounds of their own class alone."
            )
        _check_parts(session, masked, options)
        choosing_set = session.with_sets({"choosing": EvaluationSet.of(masked["choosing"].dataset)})
        facts = {"finetuned_from": resolve(options.model), "dataset": options.dataset, "masks": masked["train"].masks}
        facts["preset"] = session.preset
        trials = Trials(folder / CANDIDATES_FOLDER, choosing_set, masked["train"].dataset, options, facts)
        _say(2, f"Candidates, measured on {len(masked['choosing'].dataset)} images that choose")
        before, measured, diverged = _choose(trials, options)
        notes += [f"{candidate} diverged, and is left out." for candidate in diverged]
        chosen = choose([before, *measured], before, options.max_loss)
        table = candidates_table([before, *measured], before, chosen, options.max_loss)
        write_atomically(folder / CANDIDATES_FILE, f"{table.title}:\n\n{table.markdown()}\n")
        sides = dict(session.sides)
        if chosen.candidate is not None:
            _say(3, f"Model: `{chosen.candidate.name}`, {chosen.alpha:g} of its weights")
            sides["after"] = _write_model(trials, chosen, options)
        else:
            for name in MODEL_FILES:
                (folder / name).unlink(missing_ok=True)  # of an earlier choice, among others
        for path in trials.folder.glob("*/*"):
            if path.suffix == ".safetensors":
                path.unlink()  # what was measured of all candidates is kept
            elif path.is_dir():
                shutil.rmtree(path)  # checkpoints
        _say(4, f"Diagnosis on {len(masked['reporting'].dataset)} images that chose nothing")
        session = replace(session, sides=sides)
        return _report(session, masked["reporting"], table, notes, options)


def _check_folder(options: ImproveOptions) -> None:
    """Check that the output folder is free, or of an earlier run of this command.

    Raises:
        ValueError: it is among the images, or holds what this command would replace or delete.
    """
    folder = options.output_dir
    check_output_dir(folder, options.dataset, options.mask_folder, options.backgrounds)
    # This command writes its inputs before all else. Other programs have files of this name. A folder of that name is
    # refused when the inputs are written.
    inputs = folder / INPUTS_FILE
    if not inputs.is_dir() and "images (train)" not in (read_json(inputs) or {}):
        written = (*MODEL_FILES, "adapter_config.json", "preprocessor_config.json", TABLES_FILE, EXAMPLES_FILE)
        written += (FIGURE_FILE, PAGE_FILE, INPUTS_FILE, VERDICT_FILE, CANDIDATES_FILE)
        for name in (*written, DIAGNOSIS_FOLDER, CANDIDATES_FOLDER):
            if (folder / name).exists():
                raise ValueError(
                    f"`{folder}` holds a `{name}` that is not of `improve`, and would be replaced: choose another --output_dir."
                )


def _check_inputs(options: ImproveOptions, session: Session, parts: dict[str, datasets.Dataset]) -> None:
    """Check that the candidates in the output folder are of the same inputs, and that no image has two roles. Masks and predictions
    are checked where they are read.

    Raises:
        ValueError: they are of others, or images of one part are in another or among the backgrounds.
    """
    images = {
        name: {digest for row in undecoded_rows(rows) if (digest := _content(row["image"]))}
        for name, rows in parts.items()
    }
    processor = session.sides["before"].processor
    pool = None if options.backgrounds is None else BackgroundPool(options.backgrounds, processor)
    if pool is not None:
        pictures = [xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in pool.paths]
        if shared := len({*pictures} & (images["choosing"] | images["reporting"])):
            raise ValueError(
                f"{shared} pictures of `{options.backgrounds}` are validation images, which would be trained on: take them out."
            )
    for first, second in combinations(parts, 2):
        if shared := len(images[first] & images[second]):
            raise ValueError(
                f"{shared} images are in the part `{first}` and in `{second}`: images that train, choose and report must be "
                "others. See --train_split and --eval_split, and look for copies."
            )
    # Images, backgrounds, and masks of a folder, are known by their contents.
    unread = {"batch_size", "num_workers", "output_dir", "dataset"}
    inputs = {name: value for name, value in asdict(options).items() if name not in unread}
    inputs["masks"] = options.masks if options.mask_folder is None else None
    inputs |= {"model": session.sides["before"].digest, "precision": session.accelerator.mixed_precision}
    inputs |= {f"images ({name})": dataset_identity(rows) for name, rows in parts.items()}
    inputs["processor"] = json.loads(processor.to_json_string())
    if pool is not None:
        inputs["pictures"] = pictures  # in the order in which they are drawn from
    inputs = json.loads(json.dumps(inputs))
    path, candidates = options.output_dir / INPUTS_FILE, options.output_dir / CANDIDATES_FOLDER
    known, complete = read_json(path), any(candidates.glob(f"*/{CANDIDATE_FILE}"))
    if not complete:
        (options.output_dir / INTERPOLATION_FILE).unlink(missing_ok=True)  # of a model that was made of others
    if known == inputs:
        return
    if known is not None and complete:
        differing = [name for name in {**known, **inputs} if known.get(name) != inputs.get(name)]
        raise ValueError(
            f"`{options.output_dir}` holds an improvement with other inputs, which differ in: {', '.join(differing)}. Choose "
            "another --output_dir, or delete it."
        )
    shutil.rmtree(candidates, ignore_errors=True)  # none is complete
    write_json(path, inputs)


def _content(image: dict | None) -> str | None:
    """Digest of the bytes of an undecoded image; `None` without one. Copies of a file have other names and times."""
    if image is None:
        return None
    if image["bytes"] is None and not Path(image["path"]).is_file():
        return None  # which the check of the masks reports
    return xxhash.xxh3_128_hexdigest(Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"])


def _check_parts(session: Session, masked: dict[str, MaskedImages], options: ImproveOptions) -> None:
    """Check before the first training that the images can tell what they are for. The original's measurement is kept.

    Raises:
        ValueError: of the images that choose or report, one class is left, no object can be put on another background, or one has no
            group; or one image is left to train on by swap.
    """
    if len(masked["train"].dataset) == 1 and options.method is None and options.backgrounds is None:
        raise ValueError(
            "Of the training images, one with a usable mask is left, and the swap takes the backgrounds of others: give more images, or "
            "pictures to --backgrounds."
        )
    for name, what in (("choosing", "choose"), ("reporting", "report")):
        rows = masked[name].dataset
        groups_of(rows, name)
        if len(rows.with_format(None).unique("label")) < 2:
            raise ValueError(
                f"Of the images that {what}, {len(rows)} with a usable mask are left, all of one class: two are needed. Look at "
                f"`{options.output_dir / MASKS_FOLDER / name}`, and give more images, or other masks."
            )
    before = {"before": session.sides["before"]}
    session = replace(session, sides=before).with_sets({"reporting": EvaluationSet.of(masked["reporting"].dataset)})
    found = measure(session, Backgrounds(options.batch_size, options.num_workers))["reporting"]["before"]
    check_counts(Diagnosis(found.columns, session.classes), "report")


def _say(number: int, text: str) -> None:
    tqdm.write(f"[{number}/4] {text}", file=sys.stderr)


def _load(options: ImproveOptions) -> tuple[Images, Images, list[str], dict[str, float] | None]:
    """Images to train on, validation images, notes about them, and the shares of the groups of all that can train."""
    train, notes = _labelled(options, options.train_split), []
    try:
        validation = _labelled(options, options.eval_split)
        _check_masks_apart(train.rows, validation.rows, options)
    except UnknownSplit:
        if options.is_given("eval_split"):
            raise
        parts = _held_out(train.rows, options.seed)
        train, validation = (replace(train, rows=rows) for rows in parts)
        named = options.mask_folder or options.dataset
        notes.append(
            f"`{public_name(named)}` has no split `{options.eval_split}`: {len(validation.rows)} of the images of "
            f"`{options.train_split}` were held out. If your model was trained on them, its top-1 at home is too high."
        )
    weights = group_shares(train.rows, options.train_split)
    chosen = choose_images(train.rows, options.max_steps * options.train_batch_size, options.seed)
    return replace(train, rows=chosen), validation, notes, weights


def _labelled(options: ImproveOptions, split: str) -> Images:
    return find_images(options.dataset, split, ("label",), masks=options.mask_folder).labelled()


def _check_masks_apart(train: datasets.Dataset, validation: datasets.Dataset, options: ImproveOptions) -> None:
    """Refuse files of masks that images of both splits have, whose names begin anew in each."""
    if options.mask_folder is None or has_parquet(Path(options.mask_folder)):
        return
    splits = [undecoded(rows.select_columns(["image", "mask"])) for rows in (train, validation)]
    first, second = ({mask["path"]: index for index, mask in enumerate(rows["mask"])} for rows in splits)

    def is_of_two(mask: str) -> bool:
        one, other = (
            _content(rows[index[mask]]["image"]) for rows, index in zip(splits, (first, second), strict=True)
        )
        return one is None or one != other

    # Of an image that is in both splits, `_check_inputs` tells. Only images that share a mask are read here.
    if shared := sorted(filter(is_of_two, first.keys() & second.keys())):
        raise ValueError(
            f"`{shared[0]}` is the mask of an image of `{options.train_split}` and of one of `{options.eval_split}`: put the masks "
            f"into `{options.train_split}/` and `{options.eval_split}/` in `{options.masks}`."
        )


def _held_out(dataset: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Hold out a third of the images of each class."""
    labels = np.array(dataset.with_format(None)["label"])
    turn = turns_within_classes(labels, seed)
    return dataset.select(np.flatnonzero(turn % 3 != 2)), dataset.select(np.flatnonzero(turn % 3 == 2))


def _halves(dataset: datasets.Dataset, options: ImproveOptions) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Images that choose, and images of the last diagnosis: one half each of every class."""
    labels = np.array(dataset.with_format(None)["label"])
    turn = turns_within_classes(labels, options.seed + 1)
    # Classes begin with either half in turn, so that those of one image are in both.
    begins = {label: place % 2 for place, label in enumerate(np.unique(labels).tolist())}
    half = (turn + [begins[label] for label in labels.tolist()]) % 2
    parts = [dataset.select(np.flatnonzero(half == one)) for one in (1, 0)]
    for name, rows in zip(("choose", "report"), parts, strict=True):
        if len(rows.with_format(None).unique("label")) < 2:
            raise ValueError(
                f"The validation images, {len(dataset)}, are too few: of those that {name}, two classes are needed. Give more "
                "images of each class."
            )
    return choose_images(parts[0], CHOOSING_IMAGES), choose_images(parts[1], options.num_images)


def _masked(images: Images, name: str, options: ImproveOptions, session: Session) -> MaskedImages:
    side, folder = session.sides["before"], options.output_dir / MASKS_FOLDER / name
    return masked_images(images, name, side.model, side.processor, side.source, options.mask_method, folder)


def _choose(trials: Trials, options: ImproveOptions) -> tuple[Measured, list[Measured], list[Candidate]]:
    """Measure the original and all candidates: each variant and rate for a third of the steps, then two for all. Those that diverged
    are apart."""
    before, measured, diverged = trials.original(), [], []

    def run(candidate: Candidate) -> None:
        found = trials.run(candidate)
        measured.extend(found)
        diverged.extend([] if found else [candidate])

    first = first_candidates(options.method, options.learning_rates, options.max_steps)
    for number, candidate in enumerate(first, 1):
        tqdm.write(f"  {number} of {len(first)}: {candidate}", file=sys.stderr)
        run(candidate)
    for number, candidate in enumerate(finalists(measured, before, options.max_loss, options.max_steps), 1):
        tqdm.write(f"  finalist {number}: {candidate}", file=sys.stderr)
        run(candidate)
    return before, measured, diverged


def _estimate(session: Session, options: ImproveOptions, parts: dict[str, datasets.Dataset]) -> str:
    """Time of all that is not complete in a new folder, from that of a forward pass."""
    side = session.sides["before"]
    images = torch.zeros(8, 3, *input_size(side.processor), device=session.accelerator.device)
    times = []
    with torch.no_grad(), session.accelerator.autocast():
        for _ in range(3):
            started = time.perf_counter()
            forward_logits(side.model, images).cpu()
            times.append((time.perf_counter() - started) / len(images))
    # Of a step: the forward passes of the original and of the model, and a backward pass; for maps half of that again.
    first = first_candidates(options.method, options.learning_rates, options.max_steps)
    steps = sum(one.steps for one in first) + FINALISTS * options.max_steps
    mixtures = len(first) * len(FIRST_MIXTURES) + FINALISTS * len(MIXTURES)
    passes = 5 * steps * options.train_batch_size + 2 * mixtures * len(parts["choosing"])
    passes += 2 * 15 * len(parts["reporting"])
    masks = 0.0
    if (options.masks and not options.mask_folder) or "mask" not in parts["train"].column_names:
        masks = SECONDS_PER_MASK * sum(map(len, parts.values()))
    minutes = (min(times) * passes + masks) / 60
    return f"about {minutes:.0f} minutes" if minutes >= 1 else "about a minute"


def _write_model(trials: Trials, chosen: Measured, options: ImproveOptions) -> Side:
    """Write the chosen mixture with its record to the output folder, unless both are there. Returns it as a side."""
    folder, place = options.output_dir, trials.folder / chosen.candidate.name
    processor, model = trials.session.sides["before"].processor, None
    mixture = {"alpha": chosen.alpha, "before": public_name(options.model), "after": chosen.candidate.name}
    if (folder / RUN_FILE).is_file() and read_json(folder / INTERPOLATION_FILE) == mixture:  # written last
        try:
            model = load_model(str(folder))
        except (OSError, ValueError) as error:
            tqdm.write(f"  The model is made again: {error}", file=sys.stderr)
    if model is None:
        trials.trained(chosen.candidate)  # whose weights a run that came to its end has deleted
        model = interpolate(trials.session.sides["before"].model, load_model(str(place)), chosen.alpha)
        with weights_written(folder):
            model.save_pretrained(folder)
        run = read_json(place / RUN_FILE)
        run |= {"weights": weights_digest(model), "model_name": folder.resolve().name}
        run["training"] |= {"share of the finetuned weights": f"{chosen.alpha:g}"}
        write_json(folder / RUN_FILE, run)
        write_json(folder / INTERPOLATION_FILE, mixture)
        model = load_model(str(folder))
    processor.save_pretrained(folder)
    return Side.of(model.to(trials.session.accelerator.device), processor, str(folder))


def _report(
    session: Session, images: MaskedImages, candidates: Table, notes: list[str], options: ImproveOptions
) -> Improvement:
    """Diagnose on images that chose nothing, and write results, card and page."""
    folder = options.output_dir
    compare = str(folder) if "after" in session.sides else None
    of_diagnosis = DiagnoseOptions(
        model=options.model, compare=compare, dataset=options.dataset, split=options.eval_split, masks=options.masks,
        num_images=options.num_images,
        output_dir=folder / DIAGNOSIS_FOLDER, batch_size=options.batch_size, num_workers=options.num_workers,
        bf16=options.bf16, preset=session.preset,
    )  # fmt: skip
    of_diagnosis.output_dir.mkdir(parents=True, exist_ok=True)
    diagnosis = measure_images(session, images, "reporting", of_diagnosis)
    write_diagnosis(diagnosis, session, of_diagnosis)
    home: list[Table] = []
    sections = [diagnosis.section(), Section("Candidates", [candidates])]
    if compare is not None:
        rows = EvaluationSet.of(images.dataset, source=options.dataset, group_weights=images.group_weights)
        own = session.with_sets({"reporting": rows})
        run = Run(measure_accuracy(own, Accuracy(options.batch_size, options.num_workers), "accuracy"))
        write_report(folder, run, own, asdict(options))
        if (folder / FIGURE_FILE).is_file():  # photographs, which are not uploaded with the model
            (folder / FIGURE_FILE).replace(of_diagnosis.output_dir / FIGURE_FILE)
        home = tables_of(run)
        notes = [*notes, *_worse_classes(run, session.classes)]
        sections.append(Section("At home", home, galleries=galleries(folder)))
    improvement = Improvement(options.max_loss, diagnosis, candidates, home, [*notes, *diagnosis.warnings], folder)
    sections[0].notes = improvement.notes  # those of the diagnosis, and others
    verdict = {"outcome": improvement.outcome, "verdict": improvement.verdict, "notes": improvement.notes}
    write_json(folder / VERDICT_FILE, verdict)
    facts = {"model": session.sides["before"].name, "data": public_name(options.dataset), "masks": images.masks}
    write_page(folder / PAGE_FILE, improvement.verdict.partition("\n")[0], facts, sections)
    if compare is not None:
        of_card = {"verdict": improvement.verdict, "notes": improvement.notes}
        write_json(folder / RUN_FILE, read_json(folder / RUN_FILE) | of_card)
        write_card(folder)
    return improvement


def _worse_classes(run: Run, names: Sequence[str]) -> list[str]:
    """Classes whose top-1 at home fell, the most harmed first."""
    changes = class_changes([run], "reporting")
    worse = [f"{names[label]} {100 * change:+.0f}" for label, change in changes.items() if change < 0]
    return [f"Classes that got worse at home, in points: {', '.join(worse)}."] if worse else []
