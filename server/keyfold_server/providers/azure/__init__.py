"""Azure Key Vault and Managed HSM."""
