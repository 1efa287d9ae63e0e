"""Would the tests notice? Small faults are put into the code one by one, and the tests of the part are run.

    python -m experiments mutations --jobs 2                # an hour on two cores; writes experiments/benchmarks/mutations.json
    python -m experiments mutations --only sweep.py

A fault is caught if a test fails, or if the tests do not end; the latter are counted apart. Without faults all must pass: run `make test
test-slow` before. All runs in worktrees of the last commit, which it deletes. Faults that no test catches are printed: they need a test, or are equivalent.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from tqdm import tqdm

from ..scripts import script_parser


ROOT, RESULTS = Path(__file__).parents[2], Path(__file__).with_suffix(".json")
LIMIT = 900  # seconds of the tests of a fault


class Mutation(NamedTuple):
    """A fault: text of a file, which is there once, what stands in its place, and files of tests."""

    file: str  # in robust_vit_hf, or beginning with experiments/
    old: str
    new: str
    tests: str

    def path(self, root: Path) -> Path:
        return root / self.file if self.file.startswith("experiments/") else root / "robust_vit_hf" / self.file


# fmt: off
MUTATIONS = [
    Mutation("experiments/sweeps/bounded_choice.py", "math.ceil(max_loss / 100 * count - 1e-9)", "math.floor(max_loss / 100 * count + 1e-9)", "bounded_choice pages"),
    Mutation("experiments/sweeps/bounded_choice.py", "round(candidate.fall(before) * count) > ", "round(candidate.fall(before) * count) >= ", "bounded_choice pages"),
    Mutation("experiments/sweeps/bounded_choice.py", "fall if exceeds else -top1, fall, *candidate.strength", "fall if exceeds else -top1, *candidate.strength", "bounded_choice pages"),
    Mutation("experiments/sweeps/bounded_choice.py", "known.mean() >= -error - 1e-12", "known.mean() >= -2 * error", "bounded_choice pages"),
    Mutation("experiments/sweeps/bounded_choice.py", "min(allowed, key=lambda candidate: candidate.fall(before), default=best)", "best", "bounded_choice pages"),
    Mutation("experiments/sweeps/choose_settings.py", "best = max(within) if within", "best = min(within) if within", "report choice sweep pages"),
    Mutation("experiments/sweeps/choose_settings.py", "TOLERANCE = 1e-9", "TOLERANCE = -1e-9", "report choice sweep pages"),
    Mutation("experiments/sweeps/choose_settings.py", "groups = _by_method(run for run in results.runs if run.interpolation_weight == 1)", "groups = _by_method(results.runs)", "report choice sweep pages"),
    Mutation("experiments/sweeps/choose_settings.py", "chosen += [run for run in best.values() if run.interpolation_weight < 1]", "chosen += best.values()", "report choice sweep pages"),
    Mutation("experiments/sweeps/choose_settings.py", "set.intersection(*map(set, by_setting.values()))", "set.union(*map(set, by_setting.values()))", "report choice sweep pages"),
    Mutation("experiments/sweeps/choose_settings.py", "value in (min(of), max(of))", "value == max(of)", "report choice sweep pages"),
    Mutation("experiments/sweeps/choose_settings.py", "np.where(result.usable, result.correct(side), np.nan)", "result.correct(side).astype(float)", "report choice sweep pages"),
    Mutation("experiments/sweeps/sweep.py", "if read_json(folder / GRID_FILE) != facts:", "if read_json(folder / GRID_FILE) is None:", "sweep grid jobs"),
    Mutation("experiments/sweeps/sweep.py", "len(working) < jobs", "len(working) <= jobs", "sweep grid jobs"),
    Mutation("experiments/sweeps/sweep.py", "len(seconds) / jobs / 60", "len(seconds) / 60", "sweep grid jobs"),
    Mutation("experiments/sweeps/sweep.py", '(self.folder / ERROR_FILE).unlink(missing_ok=True)  # from', '(self.folder / "none").unlink(missing_ok=True)  # from', "sweep grid jobs"),
    Mutation("experiments/sweeps/sweep.py", 'return "paper" if is_of_paper(model) else resolve_protocol(protocol, model)', "return resolve_protocol(protocol, model)", "sweep grid jobs report choice image_processors"),
    Mutation("experiments/sweeps/grid.py", 'options[name].rstrip("/") or "/"', "options[name]", "sweep grid jobs"),
    Mutation("experiments/sweeps/sweep.py", '"begun, to resume" if', '"to run" if', "sweep grid jobs"),
    Mutation("results/run_results.py", "self.sides[side].ranks < k", "self.sides[side].ranks <= k", "report choice check_claims seed_intervals robust_accuracy pages"),
    Mutation("results/run_results.py", "else self.classes >= 0", "else self.classes > 0", "report choice check_claims seed_intervals robust_accuracy pages evaluation"),
    Mutation("results/run_results.py", '(self.correct("after", k).astype(np.int64) - self.correct("before", k))', '(self.correct("before", k).astype(np.int64) - self.correct("after", k))', "report choice check_claims seed_intervals pages"),
    Mutation("results/run_results.py", "self.sides[side].num_ranked < k", "self.sides[side].num_ranked <= k", "report choice check_claims seed_intervals robust_accuracy pages evaluation"),
    Mutation("results/intervals.py", "3 / self.count, self.outcomes", "1 / self.count, self.outcomes", "diagnosis set_tables report choice check_claims seed_intervals"),
    Mutation("results/intervals.py", "(differs and known.max() <= 0)", "(differs and known.max() < 0)", "diagnosis"),
    Mutation("results/intervals.py", "if not math.isclose(low, high, abs_tol=1e-9):", "if low <= high:", "report choice check_claims seed_intervals"),
    Mutation("experiments/sweeps/intervals.py", ".var(ddof=1)) / len(seeds)", ".var()) / len(seeds)", "report choice check_claims seed_intervals pages"),
    Mutation("experiments/sweeps/intervals.py", "* len(seeds) / (len(seeds) - 1)", "", "report choice check_claims seed_intervals pages"),
    Mutation("experiments/sweeps/intervals.py", "covariance * (covariance + of_each) / others", "0", "report choice check_claims seed_intervals pages"),
    Mutation("experiments/paper/check_claims.py", "(1 - CONFIDENCE) / (len(tested) - rank)", "1 - CONFIDENCE", "report choice check_claims seed_intervals"),
    Mutation("results/intervals.py", "rng = np.random.default_rng(zlib.crc32(name.encode()))", "rng = np.random.default_rng()", "report choice check_claims seed_intervals pages"),
    Mutation("experiments/sweeps/intervals.py", "np.std(by_seed, ddof=1)", "np.std(by_seed)", "report choice check_claims seed_intervals pages"),
    Mutation("results/set_tables.py", "top1.min(axis=1)", "top1.mean(axis=1)", "set_tables"),
    Mutation("results/set_tables.py", "np.array(groups.weights) / np.sum(groups.weights)", "np.array(groups.weights)", "set_tables"),
    Mutation("results/set_tables.py", "np.where(whole > 0, 1 - gap / whole, np.nan)", "1 - gap / whole", "set_tables diagnosis attacks"),
    Mutation("diagnosis/verdict.py", "if any(interval.low >= LARGE for interval in intervals):", "if any(interval.mean >= LARGE for interval in intervals):", "diagnosis"),
    Mutation("diagnosis/verdict.py", "len(intervals) == len(names)", "True", "diagnosis diagnose attacks"),
    Mutation("diagnosis/verdict.py", "(mixed != labels)) / (len(classes) - 1)", "(mixed != labels)) / len(classes)", "diagnosis"),
    Mutation("results/set_tables.py", "(ids >= 0) & (share > 0) & (share < 1)", "(ids >= 0) & (share > 0)", "diagnosis"),
    Mutation("diagnosis/verdict.py", "loss.low > 0.1", "loss.low > 0.5", "diagnosis"),
    Mutation("experiments/paper/check_claims.py", "RISES: (above(0), below(0))", "RISES: (above(-0.01), below(0))", "report choice check_claims seed_intervals pages"),
    Mutation("experiments/paper/check_claims.py", "np.hypot(other.mean - other.low, one.high - one.mean)", "other.mean - other.low", "report choice check_claims seed_intervals pages"),
    Mutation("experiments/sweeps/gain_and_price.py", "if point.seeds >= best.seeds]", "]", "report choice pages"),
    Mutation("experiments/sweeps/gain_and_price.py", "key=lambda item: -item[1].gain.mean", "key=lambda item: item[1].gain.mean", "report choice pages"),
    Mutation("data/background_edits.py", "BLUR = 1 / 14", "BLUR = 1 / 7", "background_edits diagnose"),
    Mutation("data/background_edits.py", "step = is_member + int(first * (len(siblings) - is_member))", "step = int(first * len(siblings))", "background_edits diagnose"),
    Mutation("data/background_edits.py", "places.get(label, 0) + is_named + int(second", "places.get(label, 0) + int(second", "background_edits diagnose"),
    Mutation("data/background_edits.py", "coarse = fill(mean, (weight > 0).to(known.dtype))", "coarse = fill(mean, (weight == 1).to(known.dtype))", "background_edits background_swap"),
    Mutation("data/background_edits.py", "F.max_pool2d(mask, 3, stride=1, padding=1) == 0", "mask == 0", "background_edits background_swap diagnose"),
    Mutation("evaluation/other_backgrounds.py", "classes.masked_fill(~known, -1)", "classes", "diagnose background_edits diagnosis attacks"),
    Mutation("evaluation/other_backgrounds.py", "np.where(other >= 0, rows.labels[other], -1)", "rows.labels[same]", "diagnose"),
    Mutation("utils/stage.py", 'if differing := [name for name in differing if name.partition(".")[0] not in {*ignoring}]:', "if False:", "stage measurement result_identity diagnose"),
    Mutation("data/find_images.py", 'Path(masks), split.partition("[")[0])', "Path(masks), split)", "diagnose"),
    Mutation("masks/choose_mask_maker.py", 'left, rejected = {*rows.with_format(None)["label"]}', 'left, rejected = {*aligned.with_format(None)["label"]}', "diagnose"),
    Mutation("masks/choose_mask_maker.py", "len(needed) - len(rows)", "len(rows) - len(rows)", "diagnose"),
    Mutation("data/balanced_splits.py", "[: max(2, count // 2)]", "[: count // 2]", "diagnose"),
    Mutation("diagnosis/example_strip.py", " & may_be_shown(dataset)", "", "diagnose"),
    Mutation("diagnosis/example_strip.py", 'condition.endswith("_rand") and predicted == self.donor', "predicted == self.donor", "diagnose"),
    Mutation("diagnosis/report.py", 'np.array(diagnosis.columns["original"])', 'np.array(diagnosis.columns["mixed_rand"])', "tables"),
    Mutation("improvement/choice.py", '"better" if self.change.low > 0', '"better" if self.change.mean > 0', "choice"),
    Mutation("improvement/choice.py", "self.change.high < 0 else", "self.change.mean < 0 else", "choice"),
    Mutation("improvement/choice.py", "share, counts * ~inside)", "share, counts)", "choice"),
    Mutation("improvement/choice.py", "return (1 - share) * usual + share * other", "return share * usual + (1 - share) * other", "choice"),
    Mutation("improvement/choice.py", "return usual, other + error", "return usual, other", "choice"),
    Mutation("data/balanced_splits.py", ", np.flatnonzero(turn % 3 == 2)", ", np.flatnonzero(turn % 3 == 1)", "image_roles"),
    Mutation("improvement/finetune.py", "torch.stack(sizes).median()", "torch.stack(sizes).mean()", "candidates"),
    Mutation("experiments/sweeps/bounded_choice.py", "return (self.weight,)", "return (-self.weight,)", "bounded_choice"),
    Mutation("models/added_classifiers.py", "self.logit_scale.exp() * embeds", "self.logit_scale * embeds", "clip"),
    Mutation("models/loading.py", "F.normalize(F.normalize(embeds, dim=-1).mean(dim=0), dim=-1)", "F.normalize(embeds, dim=-1).mean(dim=0)", "clip"),
    Mutation("models/added_classifiers.py", 'self.register_buffer("text_embeds", embeds)', "self.text_embeds = nn.Parameter(embeds)", "clip"),
    Mutation("data/layouts/imagenet_9_classes.json", "170, 173,", "170, 171, 173,", "shifted_sets"),
    Mutation("data/layouts/official.py", "np.squeeze(np.load(path)) > 0", "np.squeeze(np.load(path)) > 1", "shifted_sets"),
    Mutation("data/layouts/folders.py", "folder.absolute().parts[-3:-1]", "folder.absolute().parts[-2:-1]", "shifted_sets"),
    Mutation("data/layouts/official.py", '2 * label + int(line["place"])', '2 * int(line["place"]) + label', "shifted_sets"),
    Mutation("data/layouts/official.py", 'return {"image": row["image"], "label": label, "file_name": name, "group": 2 * label + place}', 'return {"image": row["image"], "label": label, "file_name": name, "group": 2 * place + label}', "shifted_sets"),
    Mutation("data/layouts/official.py", '"validation": "1", "test": "2"', '"validation": "2", "test": "1"', "shifted_sets"),
    Mutation("data/mask_checks.py", "if share > FULL else None", "if share > 2 else None", "sam3 mask_checks make_masks grounded"),
    Mutation("masks/by_names.py", 'instances["masks"].bool().any(dim=0)', 'instances["masks"].bool()[0]', "sam3"),
    Mutation("masks/coco.py", "if entry in owners:", "if False:", "coco"),
    Mutation("masks/make_masks.py", "self.number <= self.kept[label] + asked[label]", "self.number < self.kept[label] + asked[label]", "make_masks"),
    Mutation("training/methods/augmentations.py", "for other in givers if other != index]", "for other in givers]", "background_swap"),
    Mutation("training/methods/augmentations.py", "rng.random(len(wanted)) < 0.5", "rng.random(len(wanted)) < 0", "background_swap"),
    Mutation("data/stream.py", "if index < 0 and get_worker_info() is None:", "if index < 0:", "stream"),
    Mutation("data/stream.py", "(self.seed, epoch, int(digest, 16))", "(self.seed, int(digest, 16))", "stream"),
    Mutation("app/server.py", "[*LOOPBACK, options.host, *options.allowed_hosts]", '["*"]', "app"),
    Mutation("app/handlers.py", ' and shown["digest"] == digest_of(image) else None', " else None", "app"),
    Mutation("app/samples.py", 'next(row for row in rows if row["openly_licensed"])', "next(rows)", "app"),
    Mutation("relevance/linear_memory.py", "contribution.clamp_(min=0).mul_(attention)", "contribution.mul_(attention)", "linear_memory relevance"),
    Mutation("relevance/linear_memory.py", "key_gradient[images] +=", "key_gradient[images] =", "linear_memory relevance"),
    Mutation("utils/images.py", "to_rgb(ImageOps.exif_transpose(source))", "to_rgb(source)", "pipeline"),
    Mutation("experiments/paper/sufficient_subsets.py", "scores >= threshold", "scores > threshold", "sis"),
    Mutation("training/losses.py", "1 - mask, mask) if edges", "1 - mask, 1 - mask) if edges", "losses parity"),
    Mutation("training/losses.py", "at_least_float32(target) / self.temperature", "at_least_float32(target)", "losses parity"),
    Mutation("training/losses.py", "region.sum(dim=(1, 2, 3)).clamp(min=1)", "region.sum(dim=(1, 2, 3))", "losses methods"),
    Mutation("experiments/sweeps/collect_runs.py", 'weights=measured[sides[-1]]', 'weights=measured["before"]', "report sweep"),
    Mutation("experiments/sweeps/collect_runs.py", 'counts = (predicted["before"] >= 0)', 'counts = (predicted["before"] > 0)', "sweep"),
    Mutation("experiments/sweeps/collect_runs.py", "sum(entry.get(\"eval_runtime\", 0) for entry in history)", "0", "report choice sweep pages"),
    Mutation("experiments/sweeps/results_parquet.py", "len(run.sets) > len(runs[key].sets)", "len(run.sets) < len(runs[key].sets)", "report choice pages"),
    Mutation("experiments/sweeps/results_parquet.py", '("shifted", "images", "group_weights"', '("images", "group_weights"', "report choice pages"),
    Mutation("data/classes.py", "len(names) == len(model_names) and unnamed(names)", "len(names) <= len(model_names) and unnamed(names)", "label_mapping"),
    Mutation("data/classes.py", "if model_names.count(name) == 1}", "}", "label_mapping"),
    Mutation("data/classes.py", "label if label in (None, -1) else", "label if label is None else", "label_mapping folders data"),
    Mutation("models/interpolation.py", "after if weight else before", "after", "interpolate"),
    Mutation("utils/privacy.py", " is None or path.exists():", " is None:", "privacy"),
    Mutation("utils/stage.py", 'path.write_text("")  # do not', "pass  # do not", "resume push trainer"),
    Mutation("utils/options.py", 'f"; did you mean {close[0]}?" if close else ""', '""', "cli methods config"),
    Mutation("cli/main.py", 'getattr(interrupt, "exit_status", 130)', "130", "cli"),
    Mutation("cli/parser.py", '"nargs": "?" if undo else 0', '"nargs": "?"', "cli"),
    Mutation("cli/parser.py", 'r"^--[^=]+"', 'r"^--.+"', "cli"),
    Mutation("hub/upload.py", "if private and not api.repo_info", "if False and not api.repo_info", "push"),
    Mutation("hub/model_card.py", "(folder / picture).unlink(missing_ok=True)", "pass", "model_card"),
    Mutation("data/emoji_shift.py", "list(SPLITS).index(split), index]", "0, index]", "emoji_shift"),
    Mutation("data/emoji_shift.py", "[class_seed, len(SPLITS)]", "[0, len(SPLITS)]", "emoji_shift"),
    Mutation("experiments/sweeps/results.py", "(*self.shifted, *LATER_SETS)", "self.shifted", "report choice check_claims seed_intervals"),
    Mutation("results/summary.py", ".groupby(result.classes[result.usable]).mean()", ".groupby(result.classes[result.usable]).agg(lambda _: result.gains().mean())", "run_tables evaluation"),
    Mutation("experiments/sweeps/results_parquet.py", '"group_weights", "by_class")  # stored', '"group_weights")  # stored', "report choice"),
    Mutation("experiments/sweeps/results_parquet.py", 'facts.get("num_ranked", TOP)', "TOP", "report choice"),
    Mutation("experiments/sweeps/collect_runs.py", "(object_share > 0) & (object_share < 1)", "(object_share > 0)", "sweep"),
    Mutation("experiments/sweeps/collect_runs.py", 'None if recorded.get("resumed") else ', "", "sweep"),
    Mutation("experiments/sweeps/measure_interpolated.py", 'replace(side, processor=sides["after"].processor)', "side", "sweep"),
    Mutation("experiments/sweeps/choose_settings.py", "seeds.setdefault(run.seed, run)) is not run", "seeds.setdefault(run.name, run)) is not run", "report choice"),
    Mutation("evaluation/segment.py", ' if "mask" in rows.column_names', "", "evaluate_commands"),
    Mutation("improvement/finetune.py", "if outcomes is None:", "if True:", "improve"),
    Mutation("training/losses.py", "torch.where(prediction.isnan(), prediction, values)", "values", "losses"),
    Mutation("masks/by_names.py", "if name in label_of_wnid() else name", "if name.startswith('n0') else name", "grounded"),
    Mutation("app/gallery.py", "if name in EVALUATION_SETS:", "if name in ():", "app"),
    Mutation("evaluation/other_backgrounds.py", "values, 0).sum(axis=1) / known.sum(axis=1)", "values, 0).sum(axis=1) / np.where(known.any(axis=1), known.shape[1], 0)", "candidates"),
    Mutation("evaluation/other_backgrounds.py", "outputs[done:][place, 1:] =", "outputs[place, 1:] =", "candidates"),
    Mutation("improvement/candidates.py", "(1 - COMPOSITES_SHARE) * entropies[0] + COMPOSITES_SHARE * entropies[1]", "COMPOSITES_SHARE * entropies[0] + (1 - COMPOSITES_SHARE) * entropies[1]", "candidates"),
    Mutation("improvement/verdict.py", "last.replace(last.weight / temperature,", "last.replace(last.weight,", "candidates"),
    Mutation("improvement/choice.py", "if self.usual.high < 0:", "if self.usual.mean < 0:", "choice"),
    Mutation("evaluation/accuracy.py", "if change.high < 0 and", "if change.mean < 0 or", "improve"),
    Mutation("models/last_layer.py", " / max(1, len(biases))", "", "last_layer"),
    Mutation("data/background_edits.py", '(is_background(mask) & _region("inside", mask))', "is_background(mask)", "background_edits"),
    Mutation("data/background_edits.py", "(levels[1] - levels[0]).view(3, 1, 1)", "levels[1].view(3, 1, 1)", "background_edits"),
    Mutation("data/transforms.py", "if both and processor.rescale_factor == 1 / 255:", "if both:", "image_processors"),
    Mutation("evaluation/other_backgrounds.py", 'can_give(self.edit, batch[f"{self.donor}_mask"])', 'can_give(self.edit, batch["mask"])', "diagnose_attributes"),
    Mutation("diagnosis/verdict.py", "max(gap.mean, SMALL)) ** 2", "max(gap.mean, SMALL))", "attribute_verdict"),
    Mutation("diagnosis/verdict.py", " and gap.high >= SMALL", "", "attribute_verdict"),
    Mutation("diagnosis/diagnose.py", "[*diagnoses.values()][-1]", "[*diagnoses.values()][0]", "diagnose_attributes"),
    Mutation("diagnosis/verdict.py", "(counts / len(labels)).tolist()", "np.full(len(classes), 1 / len(classes)).tolist()", "diagnosis"),
    Mutation("diagnosis/verdict.py", "drawn[name] = replace(drawn[name], outcomes=None)", "pass", "diagnosis"),
    Mutation("experiments/sweeps/intervals.py", " * sum(other.seed == gain.seed for other in of_set)", "", "report choice check_claims seed_intervals"),
    Mutation("hub/model_card.py", "        path.unlink()", "        pass", "model_card"),
    Mutation("data/find_images.py", "made.select([places[names[index]] for index in kept])", "made.select(sorted(places[names[index]] for index in kept))", "folders"),
    Mutation("improvement/candidates.py", "default_rng([DONOR_SEED, composite, row])", "default_rng([DONOR_SEED, row])", "background_swap"),
    Mutation("evaluation/other_backgrounds.py", "partial(picture_of, number)", "partial(picture_of, 0)", "candidates"),
    Mutation("diagnosis/verdict.py", "if self.measures[name].high < 0.5", "if self.measures[name].mean < 0.5", "diagnosis"),
    Mutation("evaluation/other_backgrounds.py", 'callable(of) or not torch.equal(donor["pixel_values"], item["pixel_values"])', "True", "diagnose"),
    Mutation("evaluation/other_backgrounds.py", 'batch[f"has_{self.donor}"].bool() & can_give(self.edit, batch[f"{self.donor}_mask"])', 'can_give(self.edit, batch[f"{self.donor}_mask"]) & (batch[f"has_{self.donor}"].bool() | (self.edit in ATTRIBUTES))', "diagnose"),
    Mutation("diagnosis/stand_in.py", "np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)", "np.flatnonzero(folds == fold), np.arange(len(folds))", "stand_in"),
    Mutation("diagnosis/stand_in.py", "np.where(columns[name] >= 0, members[columns[name]], -1)", "np.where(columns[name] >= 0, columns[name], -1)", "stand_in"),
    Mutation("diagnosis/stand_in.py", "torch.from_numpy(features[members, 1])", "torch.from_numpy(features[members, 0])", "stand_in"),
    Mutation("diagnosis/stand_in.py", "[*others.index[others == 0]]", "[*others.index[others <= 1]]", "tables"),
    Mutation("diagnosis/stand_in.py", 'return self.judged(("background_excess", *COSTS))', "return self.judged(COSTS)", "tables"),
    Mutation("relevance/layer_cam.py", "(weights.clamp(min=0) * on_grid(", "(weights.abs() * on_grid(", "layer_cam"),
    Mutation("relevance/layer_cam.py", "for output in reversed(outputs if score.requires_grad else []):", "for output in outputs if score.requires_grad else []:", "layer_cam"),
    Mutation("masks/alpha.py", "[0] * 128 + [255] * 128", "[0] + [255] * 255", "alpha"),
    Mutation("masks/foreground_layer.py", "if not is_unique or overlap < AGREEMENT:", "if overlap < AGREEMENT:", "foreground_layer"),
    Mutation("data/copies.py", 'row_digest({"image": image, "path": image and image["path"]})', 'row_digest({"image": image and image["bytes"], "path": image and image["path"]})', "copies"),
    Mutation("data/copies.py", "np.abs(thumbs[pairs[:, 0]].astype(np.int16) - thumbs[pairs[:, 1]])", "np.abs(thumbs[pairs[:, 0]] - thumbs[pairs[:, 1]])", "copies"),
    Mutation("improvement/choice.py", "max(NORMAL * float(np.nanstd(draws[1:])), 3 / self.count)", "NORMAL * float(np.nanstd(draws[1:]))", "choice"),
    Mutation("improvement/choice.py", "(turns_within_classes(labels, seed) + np.unique(labels, return_inverse=True)[1])", "turns_within_classes(labels, seed)", "choice"),
    Mutation("improvement/verdict.py", "taken.append(~has_images[logits.argmax(axis=1)])", "taken.append(has_images[logits.argmax(axis=1)])", "other_classes"),
    Mutation("improvement/images.py", 'held_out(train.rows["label"][:], options.seed)', 'held_out(train.rows["label"][:], 0)', "image_roles"),
    Mutation("cli/main.py", "FAILED_IF if result and condition is not None and result.fails(condition) else 0", "FAILED_IF if result and condition and result.fails(condition) else 0", "diagnose"),
    Mutation("diagnosis/report.py", "last = [*self.diagnoses.values()][-1]", "last = [*self.diagnoses.values()][0]", "tables"),
    Mutation("results/intervals.py", "1.0 if np.isin(resamples.outcomes, (-1, 0, 1)).all() else math.inf", "1.0", "tables"),
    Mutation("improvement/improve.py", "if keeps := not attributes and diagnosis.has_little_to_gain:", "if keeps := diagnosis.has_little_to_gain:", "attributes"),
    Mutation("improvement/improve.py", "of_train.rows.select(np.flatnonzero(confirmed(of_train.rows)))", "of_train.rows", "improve"),
    Mutation("improvement/finetune.py", "backgrounds=options.backgrounds,", "backgrounds=None,", "improve"),
    Mutation("hub/model_card.py", 'measured.append(contents and {"date": _date_of(folder / file)} | contents)', 'measured.append(contents and contents | {"date": _date_of(folder / file)})', "model_card"),
    Mutation("evaluation/accuracy.py", "(1 - CONFIDENCE) / 2 / len(changes)", "(1 - CONFIDENCE) / 2", "improve"),
    Mutation("metrics/robust_accuracy.py", "if class_id != -1] for ids in references", "if class_id != 0] for ids in references", "metrics robust_accuracy"),
    Mutation("metrics/robust_accuracy.py", "values.dtype.kind, values.ndim) not in", "values.dtype.kind, 1) not in", "metrics robust_accuracy"),
    Mutation("metrics/robust_accuracy.py", "possible := possible or classes", "possible := classes", "metrics robust_accuracy"),
    Mutation("metrics/robust_accuracy.py", "image = first_image + int(bad.argmax())", "image = int(bad.argmax())", "metrics robust_accuracy"),
    Mutation("metrics/streaming.py", 'added = len(self._columns["predictions"])', "added = 0", "metrics robust_accuracy"),
    Mutation("training/trainer.py", '.get("type") == "custom"', '.get("type") == "torch"', "contract"),
    Mutation("training/trainer.py", 'self._prepare_rows(test_dataset, name="test")', "test_dataset", "contract"),
    Mutation("training/trainer.py", 'self._prepare_rows(eval_dataset, name="eval")', "eval_dataset", "contract"),
    Mutation("training/trainer.py", "[name for name, _ in model.named_parameters()]", "super().get_decay_parameter_names(model)", "contract trainer"),
    Mutation("training/trainer.py", "rows = align_labels(rows, classes_of_model(config), source)", "rows = rows", "contract trainer"),
    Mutation("training/trainer.py", "count=output.num_samples", "count=None", "distributed"),
    Mutation("training/trainer.py", "every, batch_size = num_training_steps + 1, self._train_batch_size * args.world_size", "every, batch_size = num_training_steps + 1, self._train_batch_size", "distributed"),
    Mutation("training/trainer.py", "args.lr_decay_every * max(1, math.ceil(batches / args.gradient_accumulation_steps))", "args.lr_decay_every * max(1, math.ceil(batches))", "contract trainer"),
]
# fmt: on


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="faults at once, each in a process of one thread")
    parser.add_argument("--only", default="", help="part of a file's name")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.file]
    for mutation in chosen:
        count = mutation.path(ROOT).read_text().count(mutation.old)
        if count != 1:
            raise ValueError(f"`{mutation.file}` has `{mutation.old}` {count} times, expected once.")
    head = git("rev-parse", "HEAD")
    with TemporaryDirectory() as folder:
        places: SimpleQueue[Path] = SimpleQueue()
        trees = [Path(folder) / str(number) for number in range(options.jobs)]
        for tree in trees:
            git("worktree", "add", "--detach", str(tree), head)
            places.put(tree)
        try:
            with ThreadPoolExecutor(options.jobs) as pool:
                found = list(
                    tqdm(pool.map(lambda one: outcome(one, places), chosen), total=len(chosen), desc="faults")
                )
        finally:
            for tree in trees:
                git("worktree", "remove", "--force", str(tree))
    named = {
        kind: [one._asdict() for one, got in zip(chosen, found, strict=True) if got == kind]
        for kind in ("missed", "endless")
    }
    for kind, faults in named.items():
        for fault in faults:
            print(f"{kind}: {fault['file']}: {fault['old']} -> {fault['new']}")
    print(
        f"{len(chosen) - len(named['missed'])} of {len(chosen)} faults are caught, {len(named['endless'])} of them by the time limit"
    )
    if not options.only:
        RESULTS.write_text(json.dumps({"commit": head, "faults": len(chosen), **named}, indent=2) + "\n")


def outcome(mutation: Mutation, places: "SimpleQueue[Path]") -> Literal["caught", "missed", "endless"]:
    """Put in a fault, run its tests, and take it out again."""
    tree = places.get()
    path = mutation.path(tree)
    text = path.read_text()
    tests = [str(path) for name in mutation.tests.split() for path in Path("tests").rglob(f"test_{name}.py")]
    chosen = ["-m", "not release", *tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen]
    try:
        path.write_text(text.replace(mutation.old, mutation.new))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "endless"
    finally:
        path.write_text(text)
        places.put(tree)
    if done.returncode not in (0, 1, 2):  # 2: an error in the collection, as of a file that cannot be imported
        raise RuntimeError(f"{mutation}: {done.stdout.decode()[-2000:]}")
    found: Literal["caught", "missed"] = "caught" if done.returncode else "missed"
    tqdm.write(f"{found}: {mutation.file}: {mutation.new}")
    return found


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
