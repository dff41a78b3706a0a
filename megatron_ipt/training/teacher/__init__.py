"""A frozen teacher beside the model that is trained, in a layout of its own."""
