"""How calls reach the servers: the channel, the caller's credential, deadlines and traces."""
