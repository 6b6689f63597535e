"""Key management services that hold root keys: the catalog, and a package for each provider."""
