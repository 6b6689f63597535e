"""Keyfold where applications keep data. Each module needs the extra of its name.

pyarrow     Parquet files, encrypted by pyarrow itself

These modules know the names that `keyfold` exports and nothing else of the client, as an
application does.
"""
