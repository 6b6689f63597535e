"""`keyfold apply` and `keyfold get`: documents of organizations, key links and clusters.

`get` and `apply` are the commands. `actual` reads what exists, `organizations`, `clusters` and
`deletions` work out the steps to what a document declares, `planning` puts them in order and has
the server try them, and `carrying_out` takes them.
"""
