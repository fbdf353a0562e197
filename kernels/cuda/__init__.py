"""What the kernels in CUDA C share: launches, their checks, cuBLAS, graphs, compilers."""
