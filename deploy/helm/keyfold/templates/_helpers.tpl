{{/* The names of everything: FULLNAME, FULLNAME-probe and so on. */}}
{{- define "keyfold.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- end }}

{{/* Labels that select the pods of one part: dict "root" $ "part" "server". They never change. */}}
{{- define "keyfold.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "keyfold.labels" -}}
{{ include "keyfold.selector" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "keyfold.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* What every pod has: no root, no token of Kubernetes, no variables of other Services. */}}
{{- define "keyfold.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  # The group that may read the mounted Secrets.
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "keyfold.container" -}}
image: {{ include "keyfold.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "keyfold.tlsSecret" -}}
{{- default (printf "%s-tls" (include "keyfold.fullname" .)) .Values.tls.secret }}
{{- end }}

{{/* The name under which clients in the cluster find the servers, and that the certificate has. */}}
{{- define "keyfold.host" -}}
{{ include "keyfold.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/* What a program needs that opens the store. */}}
{{- define "keyfold.storeEnv" -}}
- name: KEYFOLD_STORE
  value: {{ .Values.store.url | quote }}
{{- if .Values.store.passwordSecret.name }}
- name: KEYFOLD_STORE_PASSWORD_FILE
  value: /etc/keyfold/store-password/password
{{- end }}
- name: KEYFOLD_SERVICE_KEY
  value: /etc/keyfold/service-key/service-key
{{- end }}

{{- define "keyfold.storeMounts" -}}
- { name: scratch, mountPath: /var/lib/keyfold }
- { name: service-key, mountPath: /etc/keyfold/service-key, readOnly: true }
{{- if .Values.store.passwordSecret.name }}
- { name: store-password, mountPath: /etc/keyfold/store-password, readOnly: true }
{{- end }}
{{- if .Values.store.ca.configMap }}
- { name: store-ca, mountPath: /etc/keyfold/store-ca, readOnly: true }
{{- end }}
{{- end }}

{{- define "keyfold.storeVolumes" -}}
- name: scratch
  emptyDir:
    sizeLimit: 256Mi
- name: service-key
  secret:
    secretName: {{ .Values.serviceKey.secret.name }}
    defaultMode: 0440
    items:
      - { key: {{ .Values.serviceKey.secret.key | quote }}, path: service-key }
{{- with .Values.store.passwordSecret }}
{{- if .name }}
- name: store-password
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      - { key: {{ .key | quote }}, path: password }
{{- end }}
{{- end }}
{{- with .Values.store.ca }}
{{- if .configMap }}
- name: store-ca
  configMap:
    name: {{ .configMap }}
    items:
      - { key: {{ .key | quote }}, path: ca.crt }
{{- end }}
{{- end }}
{{- end }}

{{/* The certificate with which the console serves browsers. */}}
{{- define "keyfold.webSecret" -}}
{{- default (printf "%s-console-web" (include "keyfold.fullname" .)) .Values.console.tlsSecret }}
{{- end }}

{{/* How the probe and the relay, dict "root" $ "part" "probe", prove who they are: by a certificate if
callers have certificates, else by a token of their service account. Never by both, because a token goes
before a certificate, and its issuer may be an identity provider that knows no service accounts. */}}
{{- define "keyfold.callerMounts" -}}
- { name: ca, mountPath: /etc/keyfold/ca, readOnly: true }
{{- if .Values.tls.clientAuth }}
- { name: caller, mountPath: /etc/keyfold/caller, readOnly: true }
{{- else }}
- { name: token, mountPath: /var/run/secrets/keyfold, readOnly: true }
{{- end }}
{{- end }}

{{- define "keyfold.callerVolumes" -}}
{{ include "keyfold.tlsVolumes" . }}
{{- if not .root.Values.tls.clientAuth }}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .root.Values.tokens.audience | quote }}
          expirationSeconds: 3600
{{- end }}
{{- end }}

{{/* The servers' authority, and a client certificate if they ask for one. */}}
{{- define "keyfold.tlsVolumes" -}}
- name: ca
  secret:
    secretName: {{ include "keyfold.tlsSecret" .root }}
    defaultMode: 0440
    items:
      - { key: ca.crt, path: ca.crt }
{{- if .root.Values.tls.clientAuth }}
- name: caller
  secret:
    secretName: {{ include "keyfold.fullname" .root }}-{{ .part }}-tls
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* Jobs are short and serve nobody. An export of 100,000 clusters takes 75 MiB (bench/README.md). */}}
{{- define "keyfold.jobResources" -}}
requests: { cpu: 100m, memory: 128Mi }
limits: { memory: 512Mi }
{{- end }}
