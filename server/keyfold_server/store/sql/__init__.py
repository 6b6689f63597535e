"""SqlStore: the store's port on a relational database.

    store          SqlStore, a transaction per method
    observations   its part for what replicas observe: health, last uses
    membership     its part for replicas: who registers, polls and leaves
    batch          several changes in one transaction
    write_set      the rows that a batch will write
    transactions   transactions that check first what their server has
    floors         the decisions that this process has seen of each cluster
    history        the newest change that this process has seen
    failpoints     the points at which a test may kill the process

They work the same on every database; `database.dialect` has the differences.
"""
