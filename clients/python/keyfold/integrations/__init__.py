"""Keyfold where applications keep data. Each module needs the extra of its name.

sqlalchemy  encrypted columns, each row under its tenant's key
django      encrypted fields, the same for Django
pyarrow     Parquet files, encrypted by pyarrow itself

columns     what the mappers' modules share
naming      errors that say where they happened

These modules know the names that `keyfold` exports and nothing else of the client, as an
application does.
"""
