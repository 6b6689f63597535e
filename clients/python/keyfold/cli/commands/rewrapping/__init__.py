"""The command `rewrap --batch`: moves the wrapped keys of a file of any size.

`batch` runs it; `line` reads and writes one line, `pipeline` sends many, `tally` counts them,
`checkpoint` lets a later run go on where this one stopped, and `report` says what may be done next.
"""
