"""The paper's claims, measured on emoji-shift: tables of findings.md and settings.md."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..paper.check_claims import KEEPS, Finding, findings, findings_table
from ..paper.published_tables import METHODS
from ..sweeps.results import Results
from ..sweeps.runs import OURS, Run
from ..sweeps.seed_intervals import mean_over
from .experiment_results import HOME, PAPER_WEIGHTS, SHIFTED, runs_of, tested
from .pasted_objects import by_pasting, over_both
from .text_blocks import benchmark


def findings_block() -> str:
    """The paper's claims, with the weight that was chosen."""
    first, *others = _claims(tested().runs)
    table = findings_table([first, *_on_forty_photographs(first), *others, _subsets()])
    return f"{table.title}.\n\n{table.markdown()}"


def _on_forty_photographs(claim: Finding) -> Iterator[Finding]:
    """The claim on new backgrounds, on other photographs."""
    for method, gains in by_pasting():
        if method == OURS:
            value = over_both(gains["plain"][1])
            yield replace(claim, statement=f"{claim.statement}: forty photographs", value=value)


def _subsets() -> Finding:
    """Share of the pairs of an image and a class that have a subset, less all of them."""
    figure = benchmark("subsets")["figure"]
    first = (
        figure["found"] * figure["pairs"] / 5
    )  # of the classes of one image, if all subsets are its: the widest interval
    mean = mean_over([first - 1, -1, -1, -1], list("0123"))
    value = replace(mean, low=max(mean.low, -1), seeds=1)
    return Finding("Appendix A", "Sufficient input subsets exist for any class", KEEPS, value)


def paper_weights_block() -> str:
    """The paper's claims about its method as a whole, with the paper's weight."""
    as_ours = [replace(run, method=OURS) for run in runs_of(PAPER_WEIGHTS)]
    return findings_table([claim for claim in _claims(as_ours) if claim.value is not None]).markdown()


def _claims(runs: Sequence[Run]) -> list[Finding]:
    """Claims about the paper's shifted sets, on each set; about their mean, on new backgrounds, since in other sets of
    this benchmark the background tells the truth."""
    backgrounds = [
        replace(run, sets={name: run.sets[name] for name in (HOME, SHIFTED) if name in run.sets}) for run in runs
    ]
    by_set, of_mean = (
        [claim for claim in findings(Results(part, list(METHODS))) if (claim.set_name is not None) is of_sets]
        for part, of_sets in ((runs, True), (backgrounds, False))
    )
    return [*by_set, *of_mean]


BLOCKS: dict[str, Callable[[], str]] = {"findings": findings_block, "paper weights": paper_weights_block}
