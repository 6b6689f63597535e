"""The Keyfold server, a room per folder; imports run one way, from top to bottom.

__main__, admin    the command line
bootstrap          the only place where concrete parts meet
rpc                bytes on the wire to plain values and back; the only room that knows gRPC
providers, store   the outside world: customers' key services, the database
service            what Keyfold does: data plane, life of a key, freshness, changes
settings           what an operator sets
domain             nouns and rules; no SDK, no gRPC, no SQL
"""
