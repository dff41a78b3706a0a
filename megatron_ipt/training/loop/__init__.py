"""The training loop and what it does at every step."""
