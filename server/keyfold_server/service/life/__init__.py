"""The life of a key: every call that changes a cluster or reports on it.

Invariant: a change happens as a whole or not at all, in one commit, and nothing but the store can
keep Revoke from committing (protocol R1). This room does not know who calls it over which wire, nor
how the other replicas learn of a change (`fleet`).
"""
