"""Generated from protos/keyfold/v1 by `make stubs`; never edited."""
