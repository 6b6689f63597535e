"""The Keyfold server, a room per folder; imports run one way, from top to bottom.

__main__, admin    the command line
bootstrap          the only place where concrete parts meet
observability      where logs and spans go
monitoring         probes and metrics over HTTP
grpc_log           what gRPC's own log tells
rpc                bytes on the wire to plain values and back; the only room that knows the contract
access             who is calling: certificates, tokens, the policy
providers, store   the outside world: customers' KMSs, the database
service            what Keyfold does: data plane, life of a key, freshness, other replicas
settings           what an operator sets
telemetry          the names of spans and metrics
domain             nouns and rules; no SDK, no gRPC, no SQL
"""
