"""SQLite: the store's file and its connections, and the lock for one process."""
