"""Measurements of everything below, each run as `python -m tinygrad_char.benchmarks.NAME`."""
