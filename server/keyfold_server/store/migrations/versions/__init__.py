"""A file per version, numbered."""
