"""Parity, perplexity, benchmarks, judging of pairs."""
