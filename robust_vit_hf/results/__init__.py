"""The table of results and its confidence intervals, tables, plots and checks of the paper's findings."""
