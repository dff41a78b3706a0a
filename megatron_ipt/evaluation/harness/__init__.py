"""Benchmarks by lm-evaluation-harness (package ``lm-eval``, extra ``eval``), used as a library."""
