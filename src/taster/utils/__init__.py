"""Settings, seeds, imports by path, logging, and the memory allocator."""
