{{/* What values.schema.json cannot say: which values belong together. */}}
{{- define "keyfold.checks" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository }}{{ fail "image.repository: name the image that you built from the Dockerfile, in your own registry" }}{{ end }}
{{- if not (or $v.image.tag $v.image.digest) }}{{ fail "image.tag or image.digest: say which image runs; the chart has no default" }}{{ end }}
{{- if not $v.store.url }}{{ fail "store.url: name the PostgreSQL that holds the store, postgresql://USER@HOST/DATABASE" }}{{ end }}
{{- range tuple $v.store.url $v.store.listenUrl }}
{{- if regexMatch "^postgresql://[^/@]*:[^/@]*@|[?&]password=" . }}{{ fail "store: the password must not stand in a url; put it into a Secret and name that in store.passwordSecret.name" }}{{ end }}
{{- end }}
{{- if not $v.serviceKey.secret.name }}{{ fail "serviceKey.secret.name: name the Secret with the 32 bytes of the service key; docs/kubernetes.md says how to make it" }}{{ end }}
{{- if and (not $v.tls.secret) (not $v.tls.certManager.enabled) }}{{ fail "tls.secret: name the Secret with tls.crt and tls.key, or let cert-manager make it with tls.certManager.enabled" }}{{ end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) }}{{ fail "tls.certManager.issuerRef.name: name cert-manager's issuer" }}{{ end }}
{{- if not (or $v.tls.clientAuth $v.tokens.issuer) }}{{ fail "tls.clientAuth or tokens.issuer: without one of them no caller can prove who it is, and the server does not start" }}{{ end }}
{{- if and $v.tokens.issuer (not (or $v.tokens.jwksUrl $v.tokens.jwksConfigMap)) }}{{ fail "tokens.jwksUrl or tokens.jwksConfigMap: say where the issuer's public keys are" }}{{ end }}
{{- if and $v.tokens.jwksUrl $v.tokens.jwksConfigMap }}{{ fail "tokens.jwksUrl and tokens.jwksConfigMap: set one of them" }}{{ end }}
{{- if not (or $v.policy $v.policyConfigMap) }}{{ fail "policy: say what each caller may do; docs/security.md describes the file" }}{{ end }}
{{- if and $v.policy $v.policyConfigMap }}{{ fail "policy and policyConfigMap: set one of them" }}{{ end }}
{{- $own := "listen|metrics|policy|tls_cert|tls_key|tls_client_ca|jwt_issuer|jwt_audience|jwt_jwks|store|store_password_file|store_listen|service_key|migrate|drain_grace|socket_mode|serves|served_at" }}
{{- /* Only lines before the first table are settings; a table may have fields of these names. */ -}}
{{- $head := regexReplaceAll "(?ms)^[ \t]*\\[.*" $v.settings "" }}
{{- if regexMatch "(?m)^[ \t]*\\[?[ \t]*[\"']?served_at\\b" $v.settings }}{{ fail "settings: \"served_at\" is set by the value servedAt of the chart, so it may not stand in settings" }}{{ end }}
{{- $found := regexFind (printf "(?m)^[ \t]*[\"']?(%s)[\"']?[ \t]*=" $own) $head }}
{{- if $found }}{{ fail (printf "settings: %q is set by a value of the chart, so it may not stand in settings" (trim (trimSuffix "=" (trim $found)))) }}{{ end }}
{{- range $v.extraEnv }}
{{- if regexMatch (printf "^KEYFOLD_(CONFIG|%s)$" (upper $own)) .name }}{{ fail (printf "extraEnv: %s is set by a value of the chart, so it may not stand there" .name) }}{{ end }}
{{- end }}
{{- if and (has "*" $v.serves) (gt (len $v.serves) 1) }}{{ fail "serves: * stands for every region; write it alone, or names alone" }}{{ end }}
{{- with $v.externalSecrets }}
{{- if and .enabled (not .storeRef.name) }}{{ fail "externalSecrets.storeRef.name: name the SecretStore or ClusterSecretStore" }}{{ end }}
{{- if and .enabled (not .serviceKey.remoteKey) }}{{ fail "externalSecrets.serviceKey.remoteKey: name the service key in your secret manager" }}{{ end }}
{{- if and .enabled .storePassword.remoteKey (not $v.store.passwordSecret.name) }}{{ fail "store.passwordSecret.name: name the Secret that External Secrets makes for the password" }}{{ end }}
{{- end }}
{{- if and $v.export.enabled (not $v.export.claim) }}{{ fail "export.claim: name the PersistentVolumeClaim to which exports go" }}{{ end }}
{{- if and $v.relay.enabled (not $v.relay.targets) }}{{ fail "relay.targets: name the targets of events; docs/relay.md describes them" }}{{ end }}
{{- with $v.console }}
{{- if and .enabled (not $v.tokens.issuer) }}{{ fail "tokens.issuer: the console's visitors prove who they are by tokens, so name their issuer" }}{{ end }}
{{- if and .enabled (not (or .behindProxy .tlsSecret $v.tls.certManager.enabled)) }}{{ fail "console.tlsSecret: name the Secret with the console's tls.crt and tls.key, or set console.behindProxy if a proxy in front of it ends TLS" }}{{ end }}
{{- if and .behindProxy .tlsSecret }}{{ fail "console.behindProxy and console.tlsSecret: set one of them" }}{{ end }}
{{- if and .ingress.enabled (not .ingress.host) }}{{ fail "console.ingress.host: name the host under which browsers find the console" }}{{ end }}
{{- end }}
{{- $callers := or $v.probe.enabled $v.relay.enabled $v.console.enabled }}
{{- if and $callers $v.tls.clientAuth $v.tls.certManager.enabled (not $v.tls.certManager.trustDomain) }}{{ fail "tls.certManager.trustDomain: the certificates of the probe, the relay and the console need it" }}{{ end }}
{{- end }}
