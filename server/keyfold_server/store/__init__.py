"""The store: clusters in one relational database, every row that decides something sealed.

The rooms, from the ground up. Each knows only those above it in this list; pyproject.toml enforces
that.

    schema, service_key   the tables, and the secret that the store itself does not hold
    seal                  the MAC of a row
    database/             engine, dialects, and the drivers' errors translated to ours
    tables/               a module per noun, from rows to values and back
    migrations/           the schema's versions
    sql/                  SqlStore: a transaction for each method of the store's port
    sqlite/  postgresql/  how each database connects, locks and notifies
    transfer/             export and import
    reconciliation        an operator's decision that the store is right as it is
    opening               open_store, the one way in
    inspection            a look into a store that changes nothing, for `keyfold-server check`

To follow one change: `sql/store.py` (`apply`), `sql/batch.py`, `sql/write_set.py`,
`tables/clusters.py`, `seal.py`.

The store knows only the domain: no wire type, no provider, no setting.
"""
