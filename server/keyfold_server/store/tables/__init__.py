"""Tables: a module for each, from rows to values and back."""
