"""Distributed checkpoints: writing, loading, verifying."""
