"""Operations: work on many regions that takes long (`domain.operations`).

`operations` answers callers, `runner` takes operations that no replica runs, `run` goes through the
items of one, `items` finds them, and `steps` carries out each by the service that any caller uses.
`decisions` shows which replicas have confirmed a Revoke, as an operation that no table has.
`waiting` waits for the end of either kind.
"""
