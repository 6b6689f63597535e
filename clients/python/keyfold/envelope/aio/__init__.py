"""The envelope for asyncio, from which `make client` generates `keyfold.envelope.client`."""
