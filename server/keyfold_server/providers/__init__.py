"""The KMSs that hold root keys: the catalog, what all providers share, and a package for each.

    catalog  which providers there are, and which key uris are whose
    shared/  what several providers need: entries, deadlines, transports, origins, leases
    aws/  azure/  gcp/  vault/  local/

Every package has `entry`, which tells the catalog about the provider, and `provider`, the adapter.
Those of KMSs also have `uri` (the form of a key's name), `errors` (what the KMS's answers mean),
`access` (what a customer attaches) and `clients` (the SDK's), and the clouds' have `credentials`
and `principals`.
"""
