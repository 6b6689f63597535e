"""What callers may do: the grants of the policy file, and what they allow together."""
