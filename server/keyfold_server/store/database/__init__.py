"""Connections and transactions of any database.

    engine   runs transactions, and runs them again if need be
    trip     statements that cost one round trip together
    dialect  what databases do differently
    faults   the drivers' errors, translated to ours
    extras   what somebody else attached to our tables

These modules know no table but those that they are given.
"""
