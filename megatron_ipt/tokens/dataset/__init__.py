"""Megatron indexed datasets."""
