"""Tokenizers, and the libraries that encode with them."""
