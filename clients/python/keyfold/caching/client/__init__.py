# Generated from caching/aio/__init__.py by `make client`; never edited.

"""The cache for synchronous programs."""
