"""Nouns and rules: key specs, clusters and their changes, the wrapped-key format, errors, ports.

The domain knows no SDK, no gRPC, no SQL and no setting. `ports` and `provider` say what the
outside must supply.
"""
