"""The report of an experiment: the paper's tables, figures and findings from one file of results."""

from robust_vit_hf.results.plots import class_figure, save_figure
from robust_vit_hf.utils.files import write_atomically

from ..sweeps.choose_settings import choose_settings
from ..sweeps.collect_runs import collect
from ..sweeps.gain_and_price import price_figure, price_table, prices
from ..sweeps.results import Results
from ..sweeps.results_parquet import RESULTS_TABLE, join, read_results, write_results
from .check_claims import findings, findings_table
from .options import ReportOptions
from .paper_plots import class_group_figure, first_class_changes, size_figure
from .paper_tables import paper_tables
from .published_tables import METHODS
from .set_titles import title_of


def report(options: ReportOptions) -> str:
    """Write `report.md` and figures (PNG and PDF) of the runs of sweeps, deterministically; results that are missing
    are left out. Sources are joined in `results.parquet` in the output folder; a single file is only read."""
    sources, folder = options.sources, options.output_dir
    parts = [read_results(source) for source in sources if not source.is_dir()]
    if folders := [source for source in sources if source.is_dir()]:
        parts.append(collect(folders))
    read = join(parts)
    if len(sources) > 1 or folders:
        write_results(folder / RESULTS_TABLE, read)
        read = read_results(folder / RESULTS_TABLE)
    chosen, settings = choose_settings(read)
    results = Results(chosen, list(METHODS))
    tables, figures = {}, {}
    names = read.class_names.get(results.models[0], {})
    if results.sets:  # otherwise the runs were only measured on their validation images
        tables = paper_tables(results)
        tables |= {"findings": findings_table(findings(results))}
        figures = {"figure_4": class_group_figure(results), "figure_7": size_figure(results)}
        for name, of_set in first_class_changes(results).items():
            figures[f"figure_8_to_14_{name}"] = class_figure(of_set, names, title_of(name))
        if results.shifted and results.unshifted:
            shifted, home = results.shifted[0], results.unshifted[0]
            found = prices(read.runs, chosen, shifted, home)
            tables = {"gain_and_loss": price_table(found, METHODS, title_of(shifted), title_of(home))} | tables
            figures["gain_and_loss"] = price_figure(found, METHODS, title_of(shifted), title_of(home))
    tables |= {"settings": settings}
    markdown = "\n".join(f"## {table.title}\n\n{table.markdown()}\n" for table in tables.values())
    write_atomically(folder / "report.md", markdown)
    figures = {name: figure for name, figure in figures.items() if figure is not None}
    for name, figure in figures.items():
        save_figure(figure, folder, name)
    return f"\n{markdown}\nreport.md, figures and the results: {folder}"
