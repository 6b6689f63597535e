"""Where clusters live: one relational store, every row of weight sealed.

A reading order, and each file knows only those above it:

    schema        the tables
    service_key   the secret that the store does not hold
    seal          the MAC of a row
    faults        the driver's errors to ours, at one place
    dialect       the few things that databases do differently
    engine        transactions, run again where they may be
    sqlite_file, file_lock
                  SQLite: the file and its lock
    address, session, postgresql
                  PostgreSQL: the url, waits that end, connections
    migrate       the schema's versions (migrations/)
    rows          a cluster to its rows and back
    audit, requests, changes, replicas, observations, uses, external_ids, listing, sweeping,
    lineage, reconciliations
                  a file per noun, each on a connection that it is given
    plan, unit    what a group of changes will write, and its transaction
    marks         the points at which a process may die
    horizon       what this process has seen, which every server must have
    transactions  transactions that look for it first
    members       replicas: who joins, polls and leaves
    seen, sql     SqlStore: the port, a transaction per method
    listening     the same, which hears of changes at once
    opening       open_store, the one way in
    export, export_format, export_parse, export_file, import_
                  a store as a file, and back
    reconciling   an operator's decision that the store is right as it is

Knows the domain alone: no wire type, no provider, no setting.
"""
