"""What the providers share: entries, deadlines, transports, origins, leases and principals."""
