"""Texts and pairs to documents: templates as data, rendering, and the stage that runs it."""
