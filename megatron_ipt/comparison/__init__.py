"""Trains recipe variants from the same seeds and compares them."""
