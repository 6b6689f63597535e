"""The service: what Keyfold does, in rooms that import one another from top to bottom.

replica      joins the parts
upkeep       what a replica does without any caller
life         calls that change a cluster or report on it
root_keys    which key a key spec means, and whether it may be used and works
fleet        how replicas follow one another's changes
loading      how KEKs enter memory and stay fresh
observed     what replicas observed of keys, buffered
data, kms    the warm path; calls to customers' KMSs

The modules beside the rooms are for all of them: `storage` (the store in bounded threads), `lane`
(the store for Revoke alone), `tasks`, `clock`, and the bounds of callers and organizations in
`limits` and `shared_room`.

Nothing here knows gRPC, SQL or a provider's SDK: the KMS comes in through `domain.provider`, the
store and the clock through `domain.ports`. Everything but calls to providers and to the store runs
on one event loop, so no state here needs a lock.
"""
