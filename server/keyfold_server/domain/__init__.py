"""Nouns and rules: key specs, clusters, the wrapped-key format, errors, ports.

Knows no SDK, no gRPC, no SQL and no setting; `ports` says what the outside must supply.
"""
