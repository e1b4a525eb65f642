"""The two passes over the logits, `count` and `weigh`, in PyTorch, numba and Triton."""
