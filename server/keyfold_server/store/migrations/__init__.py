"""The schema's versions, and how a store gets from one to the next.

    migrate    checks a store's schema, and upgrades it
    env        what Alembic runs; it takes `migrate`'s connection
    versions/  a file per version

Until the first release there is one schema: every change of `store/schema.py` edits
`versions/0001_first.py`, and developers throw stores of the old schema away. Tests upgrade to a
migration of their own (`tests/next_schema.py`). From the first release on, every change is a new
file, and a released one never changes.
"""
