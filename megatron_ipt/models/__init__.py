"""What is known about models without building one: families, shapes, presets, weight names, parameter counts, FLOPs,
and their Hugging Face configuration, read and written. Nothing here imports torch."""
