"""Results of runs: confidence intervals, tables, plots and pages."""
