"""SQLite: its connections and its lock."""
