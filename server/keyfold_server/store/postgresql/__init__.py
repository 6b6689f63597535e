"""PostgreSQL: its address, its connections and its notifications."""
