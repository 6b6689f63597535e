"""Tables: a module per noun, from rows to values and back, on a connection that the caller gives.

    clusters         clusters with their regions, KEKs and current wraps
    wrap_history     the superseded wraps of each cluster
    options          options of keys, as text in a column
    audit            the audit chain of each cluster
    changes          numbered changes, by which replicas learn what to drop
    floors           holds clusters against the newest changes of them
    counter          the ends of the sequence of changes: the newest, and the last one pruned
    requests         records of requests that were carried out
    external_ids     external ids, issued once for each owner
    replicas         heartbeats
    lineage          the database server that wrote last, and when it took over
    reconciliations  operators' decisions that the store is right as it is
    observations     the last observed health of root keys and KEKs; the sweep's claims
    uses             times at which KEKs were last used
    listing          filters for lists of clusters, and counts of regions
    samples          the KEKs that the sweep checks next
    rows             writes rows, and notices those that the database did not take

The rows' layout is in `store/schema.py`.
"""
