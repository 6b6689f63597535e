# Generated from envelope/aio/__init__.py by `make client`; never edited.

"""The envelope for synchronous programs."""
