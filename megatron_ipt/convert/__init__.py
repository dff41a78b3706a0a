"""Between Hugging Face folders and Megatron-Core checkpoints, streamed both ways.

``names`` says which tensors correspond and how large they are, ``layouts`` where their rows lie; ``importer`` and
``export`` read the same list in opposite directions, ``work`` makes the target appear when it is complete, ``commands``
is what people call. Nothing here needs Megatron-Core or transformers, except to compare predictions.
"""
