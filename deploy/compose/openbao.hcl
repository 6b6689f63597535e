# The customer's KMS. The first start does what `initialize` says, once; to do it again, remove the volume.
storage "raft" {
  path                   = "/var/lib/openbao"
  node_id                = "openbao"
  performance_multiplier = 1
}

listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/run/secrets/openbao.crt"
  tls_key_file  = "/run/secrets/openbao.key"
}

api_addr      = "https://openbao:8200"
cluster_addr  = "https://openbao:8201"
max_lease_ttl = "87600h"

# It unseals itself with a key that stands beside it, which only a laptop may do.
seal "static" {
  current_key_id = "laptop"
  current_key    = "file:///run/secrets/openbao-seal-key"
}

initialize "keys" {
  request "mount" {
    operation = "update"
    path      = "sys/mounts/transit"
    data      = { type = "transit" }
  }
  request "key" {
    operation = "update"
    path      = "transit/keys/acme"
  }
}

# What Keyfold may do, and how it logs in.
initialize "keyfold" {
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/keyfold"
    data = {
      policy = <<EOT
path "transit/encrypt/acme" { capabilities = ["update"] }
path "transit/decrypt/acme" { capabilities = ["update"] }
path "transit/keys/acme" { capabilities = ["read"] }
EOT
    }
  }
  request "approle" {
    operation = "update"
    path      = "sys/auth/approle"
    data      = { type = "approle" }
  }
  request "role" {
    operation = "update"
    path      = "auth/approle/role/keyfold"
    data      = { token_policies = ["keyfold"], token_ttl = "1h" }
  }
  request "role-id" {
    operation = "update"
    path      = "auth/approle/role/keyfold/role-id"
    data      = { role_id = "keyfold" }
  }
  request "secret-id" {
    operation = "update"
    path      = "auth/approle/role/keyfold/custom-secret-id"
    data = {
      secret_id = {
        eval_type   = "string"
        eval_source = "file"
        path        = "/run/secrets/openbao-secret-id"
      }
    }
  }
}

# The customer's own token, for their keys and for what Keyfold may do with them.
initialize "customer" {
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/customer"
    data = {
      policy = <<EOT
path "transit/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/policies/acl/keyfold" { capabilities = ["read", "update"] }
EOT
    }
  }
  request "token" {
    operation = "update"
    path      = "auth/token/create-orphan"
    data = {
      id = {
        eval_type   = "string"
        eval_source = "file"
        path        = "/run/secrets/openbao-customer-token"
      }
      policies = ["customer"]
      period   = "43800h"
    }
  }
}
