"""Formats texts and pairs as documents: templates as data, rendering, and the stage."""
