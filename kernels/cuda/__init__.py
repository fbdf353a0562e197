"""What the kernels in CUDA C share: launches, their checks, cuBLAS, graphs, compilers."""

from tinygrad_char.kernels.cpu.interrupts import answer_interrupts

answer_interrupts()
