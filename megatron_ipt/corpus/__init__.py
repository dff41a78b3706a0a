"""Raw documents in: readers, ids, splits, rejects, shards."""
