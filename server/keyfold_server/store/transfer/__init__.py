"""Export and import: a store as a file, and back.

    export   reads a store in one snapshot and writes it out
    import_  brings an export into an empty store
    archive  the file: written whole or not at all, and verified before use
    records  the form of the file's lines
    parser   the lines, back to records

docs/operations.md describes the form for operators.
"""
