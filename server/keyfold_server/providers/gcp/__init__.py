"""GCP Cloud KMS."""
