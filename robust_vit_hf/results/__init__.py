"""The table of results, and what is made of it: intervals, tables, plots and the findings of the paper."""
