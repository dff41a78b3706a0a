"""Chooses the documents that are worth keeping: scores by any model, then a rule that keeps a share of them."""
