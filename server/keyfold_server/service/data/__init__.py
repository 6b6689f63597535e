"""Wrap and unwrap: the synchronous core, the keyring that decides, and the key cache it reads."""
