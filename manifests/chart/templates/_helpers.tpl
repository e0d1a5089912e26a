{{/* Labels of every object; `part` is the subcommand. */}}
{{- define "gangway.labels" -}}
app.kubernetes.io/name: gangway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "gangway.selector" -}}
app.kubernetes.io/name: gangway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "gangway.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- define "gangway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* The subcommands that run, each with its values. */}}
{{- define "gangway.parts" -}}
scheduler: true
controllers: {{ .Values.controllers.enabled }}
extender: {{ .Values.extender.enabled }}
admission: {{ .Values.admission.enabled }}
ui: {{ .Values.ui.enabled }}
{{- end }}

{{/* The configuration file of `gangway scheduler` and `gangway controllers`. */}}
{{- define "gangway.config" -}}
{{- $slurm := dict "url" .Values.slurm.url "user" .Values.slurm.user "tokenFile" "/run/gangway/token/token" }}
{{- if .Values.slurm.tls.secret }}
{{- $tls := dict "ca" "/run/gangway/slurm-tls/ca.crt" }}
{{- if .Values.slurm.tls.clientCertificate }}
{{- $_ := set $tls "certificate" "/run/gangway/slurm-tls/tls.crt" }}
{{- $_ := set $tls "key" "/run/gangway/slurm-tls/tls.key" }}
{{- end }}
{{- $_ := set $slurm "tls" $tls }}
{{- else if hasPrefix "https:" .Values.slurm.url }}
{{- fail "slurm.url says https, so slurm.tls.secret must name the Secret with ca.crt" }}
{{- end }}
{{- $more := deepCopy .Values.config }}
{{- $slurm = merge $slurm (get $more "slurm" | default dict) }}
{{- $address := ternary "0.0.0.0:50051" "127.0.0.1:50051" .Values.door.enabled }}
{{- $listen := dict "grpc" $address "metrics" "0.0.0.0:9090" "health" "0.0.0.0:8081" }}
{{- $config := dict "cluster" .Values.cluster "schedulerName" .Values.schedulerName "slurm" $slurm "listen" $listen }}
{{- $_ := set $config "leaderElection" (dict "enabled" true "name" (printf "%s-scheduler" .Release.Name)) }}
{{- if .Values.door.enabled }}
{{- $door := dict "certificate" "/run/gangway/tls/tls.crt" "key" "/run/gangway/tls/tls.key" "clientCA" "/run/gangway/tls/ca.crt" }}
{{- with .Values.door.clients }}{{- $_ := set $door "clients" . }}{{- end }}
{{- $_ := set $config "tls" $door }}
{{- end }}
{{- if and .Values.controllers.enabled (not (get $more "nodes")) }}
{{- fail "controllers.enabled needs config.nodes: which nodes Slurm is to have (docs/reference/inventory.md)" }}
{{- end }}
{{- toYaml (merge $config (omit $more "slurm")) }}
{{- end }}

{{/* The configuration file of `gangway extender`. */}}
{{- define "gangway.extenderConfig" -}}
{{- if not .Values.door.enabled }}
{{- fail "extender.enabled needs door.enabled: it asks the scheduler through the gRPC door" }}
{{- end }}
{{- $url := printf "https://%s-scheduler.%s.svc:50051" .Release.Name .Release.Namespace }}
{{- $own := dict "certificate" "/run/gangway/tls/tls.crt" "key" "/run/gangway/tls/tls.key" }}
{{- $door := merge (dict "url" $url "ca" "/run/gangway/tls/ca.crt") $own }}
{{- $tls := merge (dict "clientCA" "/run/gangway/tls/ca.crt") $own }}
{{- $listen := dict "http" "0.0.0.0:8888" "metrics" "0.0.0.0:9090" "health" "0.0.0.0:8081" }}
{{- $config := dict "cluster" .Values.cluster "schedulerName" .Values.extender.schedulerName "door" $door "tls" $tls "listen" $listen }}
{{- $_ := set $config "leaderElection" (dict "enabled" true "name" (printf "%s-extender" .Release.Name)) }}
{{- toYaml (merge $config .Values.extender.config) }}
{{- end }}

{{/* The configuration file of `gangway admission`: the policy is the scheduler's. */}}
{{- define "gangway.admissionConfig" -}}
{{- $account := printf "system:serviceaccount:%s:%s" .Release.Namespace .Release.Name }}
{{- $ours := list (printf "%s-scheduler" $account) (printf "%s-extender" $account) }}
{{- $tls := dict "certificate" "/run/gangway/tls/tls.crt" "key" "/run/gangway/tls/tls.key" }}
{{- $listen := dict "webhook" "0.0.0.0:9443" "metrics" "0.0.0.0:9090" "health" "0.0.0.0:8081" }}
{{- $config := dict "cluster" .Values.cluster "schedulerName" .Values.schedulerName "slurmUser" .Values.slurm.user "tls" $tls "listen" $listen "ours" $ours }}
{{- with .Values.admission.makers }}{{- $_ := set $config "makers" . }}{{- end }}
{{- range $key := list "policy" "resources" }}
{{- with get $.Values.config $key }}{{- $_ := set $config $key . }}{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The configuration file of `gangway ui`. */}}
{{- define "gangway.uiConfig" -}}
{{- if not .Values.door.enabled }}
{{- fail "ui.enabled needs door.enabled: it asks the scheduler through the gRPC door" }}
{{- end }}
{{- $url := printf "https://%s-scheduler.%s.svc:50051" .Release.Name .Release.Namespace }}
{{- $door := dict "url" $url "certificate" "/run/gangway/tls/tls.crt" "key" "/run/gangway/tls/tls.key" "ca" "/run/gangway/tls/ca.crt" }}
{{- $listen := dict "http" "0.0.0.0:8080" "metrics" "0.0.0.0:9090" "health" "0.0.0.0:8081" }}
{{- $config := dict "cluster" .Values.cluster "door" $door "listen" $listen }}
{{- with .Values.ui.hosts }}{{- $_ := set $config "hosts" . }}{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* Which configuration a subcommand has, and its text. */}}
{{- define "gangway.file" -}}
{{- if has .part (list "extender" "admission" "ui") }}{{ .part }}.yaml{{ else }}gangway.yaml{{ end }}
{{- end }}
{{- define "gangway.text" -}}
{{- if eq .part "extender" }}{{ include "gangway.extenderConfig" .root }}
{{- else if eq .part "admission" }}{{ include "gangway.admissionConfig" .root }}
{{- else if eq .part "ui" }}{{ include "gangway.uiConfig" .root }}
{{- else }}{{ include "gangway.config" .root }}{{ end }}
{{- end }}
