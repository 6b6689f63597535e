"""The wire: bytes to plain values and back, errors to codes, one gRPC server.

The only room that knows gRPC and the generated messages, so that a change of the contract cannot
reach the service or the domain. No interceptors: a table of methods makes generic handlers on
bytes, each wrapped once when it is registered.
"""
