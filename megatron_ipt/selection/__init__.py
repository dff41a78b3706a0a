"""Which documents are worth training on: scores by any model, and rules that keep some of them."""
