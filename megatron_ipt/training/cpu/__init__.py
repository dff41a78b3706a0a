"""Replacements for CUDA and fused kernels on CPU."""
