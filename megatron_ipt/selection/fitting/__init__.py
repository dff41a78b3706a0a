"""Stage ``fitting``: a scorer that learns from proxy scores what a document is worth, and scores the whole corpus."""
