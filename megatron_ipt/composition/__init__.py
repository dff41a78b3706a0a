"""Contexts of paragraphs that share a task, composed from a corpus (PICL, arXiv:2305.09137)."""
