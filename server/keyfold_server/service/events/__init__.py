"""Events: what happened to keys, read from the log for people and their programs."""
