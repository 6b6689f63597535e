"""What this replica observed: buffered here, and written to the store later (protocol S7)."""
