"""Measurements of everything below, each run as `python -m benchmarks.NAME`."""
