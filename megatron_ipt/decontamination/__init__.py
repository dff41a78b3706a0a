"""Test questions are kept out of what a model learns: pairs, texts and documents that hold one are removed."""
