"""The report of a sweep: one HTML file that loads nothing, from the sweep's tables and its runs' ledgers."""
