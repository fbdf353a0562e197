"""The kernels in CUDA C, executed on the CPU: arrays, products and the runner."""
