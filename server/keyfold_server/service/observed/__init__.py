"""What this replica observed, buffered in memory and written to the store later (protocol S7)."""
