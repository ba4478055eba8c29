"""Engines that generate text inside Triton, and what stands between them and Triton's tensors."""
