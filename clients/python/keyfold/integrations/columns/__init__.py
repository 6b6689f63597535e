"""Encrypted columns of a database: what the integrations of the mappers share.

    tenants   the clusters of an application's tenants, and the envelopes that seal for them
    place     the row and column that a value is bound to
    cell      the value of one column of one row: sealed, open, or both
    group     rows that were read together, and open together
    rekeying  moving stored values to newer keys

Each value is a message of `keyfold.Envelope`. Its data key is bound to the table, and the message
to the tenant, the column and the row. None of these modules knows a database.
"""
