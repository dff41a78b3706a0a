"""Stage ``proxy``: the short run of a small model by which PDS scores a sample of the corpus."""
