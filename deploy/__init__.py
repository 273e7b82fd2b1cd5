"""Composition root: the command line, emulated fleets, brokers."""
