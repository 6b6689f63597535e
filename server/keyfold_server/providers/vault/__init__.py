"""The transit engine of HashiCorp Vault and OpenBao."""
