"""What the kernels in C share: the extension, its calls and programs, threads."""
