"""Pairs that exist already, read as if they had been synthesized."""
