"""Tables: a module per noun, from rows to values and back, on a connection that the caller gives.

    clusters         clusters with their regions, KEKs and current wraps
    cluster_rows     the form of a cluster's rows
    standing         a cluster's rows as they stand, unverified, for an operator to look at
    wrap_history     the superseded wraps of each cluster
    history_pruning  removes those that no backup needs any more
    history_checkpoints  the last wrap that pruning removed from each history
    options          options of keys, as text in a column
    log              the log: what happened, each entry sealed and chained to the one before
    log_head         both ends of the log: the newest entry, and the last one pruned
    log_chain        verifies that each entry of the log follows the one before
    log_polling      what a replica's poll reads of the log
    log_pruning      removes the oldest entries of the log, and no floor
    transitions      transitions of root keys' health, each once in the log
    floors           holds a cluster against the newest decision about it in the log
    decisions        what the log's decisions made of a cluster, for an operator to look at
    requests         records of requests that were carried out
    identities       values that are issued once for each owner, such as external ids
    replicas         heartbeats
    lineage          the database server that wrote last, and when it took over
    observations     the last observed health of root keys and KEKs; the sweep's claims
    uses             times at which KEKs were last used
    listing          filters for lists of clusters
    region_health    the health of regions in SQL: filters for lists, and counts
    samples          the KEKs that the sweep checks next
    rows             writes rows, and notices those that the database did not take

The rows' layout is in `store/schema.py`.
"""
