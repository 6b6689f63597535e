"""Wrap and unwrap: the synchronous core, the keyring that decides, and the memory it reads."""
