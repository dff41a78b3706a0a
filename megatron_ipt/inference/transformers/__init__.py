"""The engine ``transformers``: a model in this process."""
