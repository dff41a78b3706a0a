"""Texts and pairs formatted as documents by templates."""
