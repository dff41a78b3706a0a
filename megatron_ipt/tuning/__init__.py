"""Packed sequences with a loss mask, for tuning."""
