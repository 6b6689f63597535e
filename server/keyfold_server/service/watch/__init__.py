"""Watches: streams of what happens, for any number of readers, from the one poll of this replica.

Invariant: a reader costs no poll, and no read of the store for a change that other readers see too.
However slowly one reads, it holds up neither another reader nor the event loop, and nothing is kept
for it alone: all readers go through the same two sequences, each from its own place.

    feed        the newest entries of the log, as polls read them
    looks       the clusters that changed, each read once for all readers
    tokens      the sealed places from which a reader goes on
    watch       one reader's stream
    watches     all of them: how many, and what ends them
    cursors     the named places that the store keeps for readers
"""
