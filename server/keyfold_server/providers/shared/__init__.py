"""What the providers share: deadlines and transports."""
