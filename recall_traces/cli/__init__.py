"""The command line, `recall-traces`: train, compare, plot, list."""
