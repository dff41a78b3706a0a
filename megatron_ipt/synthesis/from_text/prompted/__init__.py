"""Pairs from a language model that is prompted with the text."""
