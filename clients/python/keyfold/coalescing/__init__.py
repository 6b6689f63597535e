"""Coalescing: calls that are made while another one is under way travel together, as a batch.

Calls of one method that need the same key of one cluster form a *lane*. A call that finds its lane
empty goes at once, as it would without coalescing. While it is under way the calls after it wait,
and when it has ended one of them, the *leader*, takes all of them along in one batch. So a batch
has as many calls as came in during one round trip, and nobody waits for a batch to fill.

What holds for each call by itself:

- Its answer or error is that of a call made alone. A failure that is about the batch sends each of
  its calls alone.
- It has its own deadline and can be cancelled. Its item may then be answered in vain.
- It waits at most `PATIENCE` for the call under way. One that takes longer, such as one that hangs,
  holds nobody up: the next batch leaves beside it, and from then on the lane is the newer one's.

A lane is one key, and not one cluster, because a batch is answered when its slowest item is: a call
must not wait for the KMS of another region. A lane is also one caller, as the metadata of its calls
names it. `batch` says what travels together, `lane` is the order of waiting without any waiting,
and `threads` and `tasks` wait.
"""
