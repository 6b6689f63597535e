"""Acme KMS, a made-up KMS with a REST API, as a provider of Keyfold: type ACME_KMS."""
