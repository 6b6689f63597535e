"""LOCAL: root keys in a file, for development, tests and single machines."""
