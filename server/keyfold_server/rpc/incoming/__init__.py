"""How a call comes in, before its method runs: the door, the caller, and the request itself."""
