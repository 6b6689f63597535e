"""The cache for asyncio, from which `make client` generates `keyfold.caching.client`."""
