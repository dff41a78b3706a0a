"""Model families as tables: shapes, presets, weight names, FLOPs."""
