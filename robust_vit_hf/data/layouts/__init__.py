"""How each set of the paper lies on disk or on the Hub: one module a layout."""
