"""The fleet: how this replica follows the changes of the others, and they follow its own.

Invariant: what a replica reports as applied is gone from its memory (protocol R4), and a replica
that has not seen the store for too long stops by itself (protocol S3). This room does not know what
a change means to a cluster; it only drops what changed, so that the next call reads it again.
"""
