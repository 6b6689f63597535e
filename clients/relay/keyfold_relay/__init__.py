"""keyfold-relay: carries Keyfold's events to where a customer or an operator keeps them.

It is a client of `EventService` and nothing else, so that outbound requests and the secrets of
webhooks never stand in the process that holds KEKs. Its rooms, from the top:

    __main__    argv
    commands/   `run`, `check`, `replay`, `skip`, `listen`
    relay       all targets of one file: signals, drain, exit code
    monitoring  /livez, /readyz and /metrics
    delivery    one target's events: in order, at least once, nothing left out
    targets/    the ways out: webhook, file and stdout, bucket
    http/       outbound requests: which addresses are allowed, time limits, bounded answers
    source/     the way in: EventService, a named cursor for each target
    signing     Standard Webhooks: signing and verifying
    cloudevents an event as a CloudEvent
    config/     the TOML file
    meters, logs
"""
