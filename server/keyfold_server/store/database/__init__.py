"""Connections and transactions of any database.

    engine     runs transactions, and runs them again if need be
    dialect    what databases do differently
    faults     the drivers' errors, translated to ours

These modules know no table.
"""
