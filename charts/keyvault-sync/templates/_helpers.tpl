{{- define "keyvault-sync.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "keyvault-sync.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "keyvault-sync.fullname" .) -}}
{{- end -}}

{{- define "keyvault-sync.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keyvault-sync.labels" -}}
{{ include "keyvault-sync.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* <operator namespace>.<release>, the label of its claims. Cut, two installations could share it: refused instead. */}}
{{- define "keyvault-sync.installation" -}}
{{- $installation := printf "%s.%s" .Release.Namespace .Release.Name -}}
{{- if gt (len $installation) 63 -}}
{{- fail (printf "namespace and release name together must have at most 62 characters, because %q is written to a label: choose a shorter release name" $installation) -}}
{{- end -}}
{{- $installation -}}
{{- end -}}

{{/* What the identity serviceAccount needs, where it is enabled: generated, with the names of the values. */}}
{{- define "keyvault-sync.serviceAccountRules" -}}
{{- if .Values.serviceAccountIdentities.enabled }}
{{- if has "*" .Values.serviceAccountIdentities.names }}
{{- fail "serviceAccountIdentities.names: \"*\" is no name; leave the list empty to mean any ServiceAccount" }}
{{- end }}
{{- range $rule := .Files.Get "files/service-account-rules.yaml" | fromYamlArray }}
{{- with $.Values.serviceAccountIdentities.names }}
{{- $_ := set $rule "resourceNames" . }}
{{- end }}
{{ list $rule | toYaml }}
{{- end }}
{{- end }}
{{- end }}
