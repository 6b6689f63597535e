"""The schema's versions; released ones are never changed."""
