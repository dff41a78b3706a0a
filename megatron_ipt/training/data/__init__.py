"""Samples and batches from indexed datasets."""
