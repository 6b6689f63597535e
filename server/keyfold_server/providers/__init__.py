"""The KMSs that hold root keys: the catalog, what all providers share, and a package for each."""
