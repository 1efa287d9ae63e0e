"""Until the functions of the table exist: those of their options, by path, from the functions that there are."""

from typing import Any


def _measured(run, options: Any, written: str) -> str:
    from ..utils.processes import make_accelerator
    from ..utils.publishable import public_settings

    given = dict(vars(options))
    settings = public_settings(given)
    accelerator = make_accelerator(given.pop("bf16"))
    tables = run(**given, accelerator=accelerator, settings=settings)
    return f"\n{tables}\n{written}: {options.output_dir}" if tables else ""


def evaluate(options: Any) -> str:
    from ..evaluation.robustness import evaluate_robustness

    return _measured(
        evaluate_robustness, options, "results.json, tables, plots, examples and the predictions of each image"
    )


def segment(options: Any) -> str:
    from ..evaluation.segmentation import evaluate_segmentation

    return _measured(evaluate_segmentation, options, "results.json, table and attribution.png")


def find_subsets(options: Any) -> str:
    from ..evaluation.sis import evaluate_subsets

    return _measured(evaluate_subsets, options, "results.json, table, sis.png and the subsets of each batch")


def make_figures(options: Any) -> str:
    from ..evaluation.example_figures import CAPTIONS_FILE, make_figures
    from ..utils.processes import make_accelerator

    captions = make_figures(**vars(options), accelerator=make_accelerator(bf16=False))
    return f"\n{captions}\nFigures and {CAPTIONS_FILE}: {options.output_dir}"


def interpolate_models(options: Any) -> str:
    from ..evaluation.interpolation_sweep import sweep_interpolations
    from ..models.interpolation import write_mixture
    from ..utils.processes import make_accelerator

    before, after, alpha, output = options.before, options.after, options.alpha, options.output_dir
    if alpha is not None:
        write_mixture(before, after, alpha, output)
        return f"{output}: {1 - alpha:g} · {before} + {alpha:g} · {after}"
    given = {name: value for name, value in vars(options).items() if name not in ("alpha", "sweep")}
    table = sweep_interpolations(alphas=options.sweep, accelerator=make_accelerator(bf16=False), **given)
    advice = "An alpha that is chosen by these accuracies is not measured by them: choose it on other images."
    return f"\n{table}\n{advice}\n\nsweep.json, sweep.png and sweep.pdf: {output}"


def report(options: Any) -> str:
    from ..experiments.report import report

    tables = report(**vars(options))
    text = f"\n{tables}\nreport.md, report.tex, figures and the results: {options.output_dir}" if tables else ""
    page = f"Open {options.output_dir / 'report.html'} in a browser." if options.html else ""
    return "\n".join(filter(None, (text, page)))


PENDING = {
    "evaluation.evaluate.evaluate": evaluate,
    "evaluation.segment.segment": segment,
    "evaluation.subsets.find_subsets": find_subsets,
    "evaluation.example_figures.make_figures": make_figures,
    "evaluation.mixtures.interpolate_models": interpolate_models,
    "experiments.report.report": report,
}
