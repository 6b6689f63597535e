"""Connections and transactions of any database: engine, dialects, and the errors of drivers."""
