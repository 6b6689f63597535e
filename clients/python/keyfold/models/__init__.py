"""What callers say and what they get back, as plain values: specs, status, results."""
