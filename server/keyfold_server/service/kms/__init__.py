"""Calls to customers' KMSs: admitted by gates, carried out in threads, and used to prove KEKs."""
