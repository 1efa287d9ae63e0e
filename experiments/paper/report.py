"""The report of an experiment: the paper's tables, figures and findings from one file of results."""

from matplotlib.figure import Figure

from robust_vit_hf.evaluation.examples import galleries
from robust_vit_hf.results.html_page import PAGE_FILE, Section, write_page
from robust_vit_hf.results.plots import class_figure, page_picture, save_figure
from robust_vit_hf.results.tables import Table
from robust_vit_hf.utils.files import write_atomically

from ..sweeps.choose_settings import choose_interpolated, choose_settings
from ..sweeps.collect_runs import collect
from ..sweeps.gain_and_price import price_figure, price_table, prices
from ..sweeps.point_folder import RUN
from ..sweeps.results import Results, worst_group_table
from ..sweeps.results_parquet import RESULTS_TABLE, join, read_results, write_results
from ..sweeps.runs import OURS
from .check_claims import findings, findings_table
from .options import ReportOptions
from .paper_plots import class_group_figure, first_class_changes, size_figure
from .paper_tables import paper_tables
from .published_tables import METHODS
from .set_titles import title_of


CLASSES = "figure_8_to_14_"  # begins the name of the figure of a set
CAPTIONS = {
    "figure_4": "Figure 4: average change of the training classes and of the others, by set",
    "figure_7": "Figure 7: change of top-1 over the number of samples and of training classes",
    "gain_and_loss": "Gain and loss: learning rates (lines), interpolation with the original model (dotted), and the chosen settings",
}


def report(options: ReportOptions) -> str:
    """Write `report.md` and figures (PNG and PDF) of the runs of sweeps, deterministically; results that are missing are
    left out. With `html`, also write `report.html`. Sources are joined in
    `results.parquet` in the output folder; a single file is only read."""
    sources, folder = options.sources, options.output_dir
    page = f"Open {folder / PAGE_FILE} in a browser." if options.html else ""
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
        if groups := worst_group_table(results):
            tables["groups"] = groups
        tables |= {"findings": findings_table(findings(results))}
        figures = {"figure_4": class_group_figure(results), "figure_7": size_figure(results)}
        for name, of_set in first_class_changes(results).items():
            figures[f"{CLASSES}{name}"] = class_figure(of_set, names, title_of(name))
        if results.shifted and results.unshifted:
            shifted, home = results.shifted[0], results.unshifted[0]
            # They are measured on the images of the training data, and not on the `sets` of a grid.
            interpolated = [run for run in choose_interpolated(read) if {shifted, home} <= run.sets.keys()]
            found = prices(read.runs, [*chosen, *interpolated], shifted, home)
            tables = {"gain_and_loss": price_table(found, METHODS, title_of(shifted), title_of(home))} | tables
            figures["gain_and_loss"] = price_figure(found, METHODS, title_of(shifted), title_of(home))
    tables |= {"settings": settings}
    markdown = "\n".join(f"## {table.title}\n\n{table.markdown()}\n" for table in tables.values())
    write_atomically(folder / "report.md", markdown)
    figures = {name: figure for name, figure in figures.items() if figure is not None}
    for name, figure in figures.items():
        save_figure(figure, folder, name)
    if options.html:
        _write_html(options, results, names, tables, figures)
    return f"\n{markdown}\nreport.md, figures and the results: {folder}\n{page}".rstrip()


def _write_html(
    options: ReportOptions,
    results: Results,
    names: dict[int, str],
    tables: dict[str, Table],
    figures: dict[str, Figure],
) -> None:
    first = next(iter(results.of(OURS)), results.runs[0])
    pictures = []
    for name, figure in figures.items():
        of_set = f"Figures 8 to 14: the most harmed and the most helped classes of {name.removeprefix(CLASSES)}"
        caption = CAPTIONS.get(name, of_set)
        alt = f"{caption}. The tables hold the values."
        pictures.append(page_picture(figure, caption, alt, "" if name in CAPTIONS else "wide"))
    sections = [
        Section("Findings", [tables[name] for name in ("gain_and_loss", "findings") if name in tables]),
        Section("Tables", [table for name, table in tables.items() if name not in ("gain_and_loss", "findings")]),
        Section("Figures", plots=pictures),
    ]
    for source in options.sources:  # a sweep or one of its points
        run = (source if source.name == first.name else source / first.name) / RUN
        sections.append(Section(f"Examples of {first.name}", galleries=galleries(run)))
    facts = {"models": ", ".join(results.models), "methods": ", ".join(results.methods)}
    filled = [section for section in sections if section.filled]
    write_page(options.output_dir / PAGE_FILE, "Report of an experiment", facts, filled)
