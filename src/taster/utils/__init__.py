"""Settings, seeds, imports by path, logging and the allocator."""
