"""Texts as vectors: running an encoder, training one, and measuring it."""
