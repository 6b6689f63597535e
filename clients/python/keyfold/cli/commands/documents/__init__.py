"""`keyfold apply` and `keyfold get`: documents of organizations, key links and clusters.

`get` and `apply` are the commands. `actual` reads what exists; `organizations`, `moves`,
`clusters` and `deletions` work out the steps to what a document declares, with `planned_keys`,
`asked` and `limits` for what rests on earlier steps; `planning` puts the steps in order and has the
server try them, and `carrying_out` takes them.
"""
