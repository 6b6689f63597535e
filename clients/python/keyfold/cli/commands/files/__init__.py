"""Files, encrypted with a cluster's keys: `encrypt`, `decrypt`, `rekey`.

commands  the commands, and their way through many files
places    where the output of each file goes
rekeying  a file with its wrapped key moved, in its old place
"""
