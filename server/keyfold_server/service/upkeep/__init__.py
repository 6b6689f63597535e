"""Upkeep: what a replica does by itself, without any caller.

Invariant: a failure in upkeep is logged and tried again; it never stops the replica and never
raises into a call. This room decides nothing about a key. What an answer of a KMS means is decided
where every other answer is (`loading`, `observed`).
"""
