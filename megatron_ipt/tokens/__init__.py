"""Tokenizers, interleaving, Megatron indexed datasets."""
