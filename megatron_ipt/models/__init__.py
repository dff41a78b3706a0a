"""Model families as tables: shapes, presets, Hugging Face configuration, weight names, FLOPs. No torch."""
