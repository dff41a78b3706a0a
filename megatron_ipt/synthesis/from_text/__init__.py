"""Pairs from texts."""
