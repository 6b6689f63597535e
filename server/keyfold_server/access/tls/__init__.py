"""Callers by certificate, and the TLS files of the server."""
