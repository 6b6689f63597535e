"""A numbered file per version of the schema."""
