"""What other replicas changed: the poll of the store, and applying what it finds."""
