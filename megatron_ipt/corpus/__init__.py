"""Raw documents: readers, ids, splits, domains, rejects, shards."""
