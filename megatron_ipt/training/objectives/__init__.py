"""What a model is trained for: the terms of its loss."""
