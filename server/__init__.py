"""The server: rounds, admission, aggregation, ledger, mirror and what is reported of a run."""
