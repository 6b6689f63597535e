"""What Keyfold does: the data plane, the life of a key, freshness, changes.

A file per noun. `data_plane` is one synchronous function per call, from plain values to plain
values; what it lacks it asks for with `NeedsLoad`, and `loads` fetches it. Nothing here knows
gRPC, SQL or a provider's SDK: key services come in through `domain.provider`, store and clock
through `domain.ports`.

Everything but provider and store calls runs on one event loop, so no state here needs a lock.
"""
