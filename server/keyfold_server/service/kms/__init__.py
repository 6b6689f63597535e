"""Calls to customers' KMSs: admitted by gates, run in threads, and used to make and prove KEKs."""
