"""Measurements of everything below, each run as `python -m tinygrad_char.benchmarks.NAME`."""

from tinygrad_char.kernels.cpu.interrupts import answer_interrupts

answer_interrupts()
