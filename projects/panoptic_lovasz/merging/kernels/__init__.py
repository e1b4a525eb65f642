"""What merging does per pixel: in PyTorch, and compiled for the CPU (numba) and CUDA (Triton)."""
