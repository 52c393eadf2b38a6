{{- define "keyvault-sync.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 57 | trimSuffix "-" -}}
{{- end -}}

{{/* Of a Job and of a Service, whose names hold no dot; with the ending -check at most 63 characters. */}}
{{- define "keyvault-sync.fullname" -}}
{{- $name := include "keyvault-sync.name" . -}}
{{- $fullname := .Values.fullnameOverride -}}
{{- if not $fullname -}}
{{- $fullname = ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- end -}}
{{- $fullname | replace "." "-" | trunc 57 | trimSuffix "-" -}}
{{- end -}}

{{/* For objects outside the release's namespace: releases of one name in two namespaces do not share them. */}}
{{- define "keyvault-sync.clusterName" -}}
{{- printf "%s.%s" .Release.Namespace (include "keyvault-sync.fullname" .) -}}
{{- end -}}

{{- define "keyvault-sync.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "keyvault-sync.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.create is false: serviceAccount.name has to say which ServiceAccount is used" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "keyvault-sync.selectorLabels" -}}
app.kubernetes.io/name: {{ include "keyvault-sync.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* The labels of an object. Where the values have the same ones, the chart's win: selectors go by them. */}}
{{- define "keyvault-sync.labels" -}}
{{- include "keyvault-sync.labelsAnd" (list . dict) -}}
{{- end -}}

{{/* The same with more: a list of the context and these. */}}
{{- define "keyvault-sync.labelsAnd" -}}
{{- $context := first . -}}
{{- $own := include "keyvault-sync.selectorLabels" $context | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" $context.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $context.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_") -}}
{{- merge $own (deepCopy (last .)) $context.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* The labels of a pod that speaks to Azure: a list of the context and what the pod is. */}}
{{- define "keyvault-sync.podLabels" -}}
{{- $context := first . -}}
{{- $labels := dict "app.kubernetes.io/component" (last .) -}}
{{- if $context.Values.workloadIdentity.enabled -}}
{{- $_ := set $labels "azure.workload.identity/use" "true" -}}
{{- end -}}
{{- include "keyvault-sync.labelsAnd" (list $context (merge $labels $context.Values.podLabels)) -}}
{{- end -}}

{{- define "keyvault-sync.image" -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.image.registry }}{{ $repository = printf "%s/%s" . $repository }}{{ end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
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
{{- end -}}

{{/* Whether one of caBundle's three is given; more than one is a mistake. */}}
{{- define "keyvault-sync.caBundle" -}}
{{- $given := list -}}
{{- if .Values.caBundle.configMap }}{{ $given = append $given "configMap" }}{{ end -}}
{{- if .Values.caBundle.secret }}{{ $given = append $given "secret" }}{{ end -}}
{{- if .Values.caBundle.pem }}{{ $given = append $given "pem" }}{{ end -}}
{{- if gt (len $given) 1 }}{{ fail (printf "caBundle: %s are both given; give one" (join " and " $given)) }}{{ end -}}
{{- with $given }}{{ first . }}{{ end -}}
{{- end -}}

{{/* Where metrics are served. */}}
{{- define "keyvault-sync.metricsPort" -}}
{{- ternary .Values.metrics.auth.port 8080 .Values.metrics.auth.enabled -}}
{{- end -}}

{{/* Restricted Pod Security, for every pod of the chart. */}}
{{- define "keyvault-sync.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "keyvault-sync.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods run, whichever: those of the operator, of hooks and of tests. */}}
{{- define "keyvault-sync.scheduling" -}}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The settings, for the operator and for the test that stands in its place. */}}
{{- define "keyvault-sync.environment" -}}
env:
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: POD_UID
    valueFrom:
      fieldRef:
        fieldPath: metadata.uid
  - name: POD_NAMESPACE
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
  - name: KEYVAULT_SYNC_INSTALLATION
    value: {{ include "keyvault-sync.installation" . | quote }}
  {{- with .Values.settings.clusterId }}
  - name: KEYVAULT_SYNC_CLUSTER_ID
    value: {{ . | quote }}
  {{- end }}
  {{- with .Values.settings.resourceSelector }}
  - name: KEYVAULT_SYNC_RESOURCE_SELECTOR
    value: {{ . | quote }}
  {{- end }}
  - name: KEYVAULT_SYNC_LEASE_DURATION
    value: {{ .Values.settings.leaseDuration | quote }}
  - name: KEYVAULT_SYNC_CLOUDS
    value: {{ join "," .Values.settings.clouds | quote }}
  {{- with .Values.settings.authorityHost }}
  - name: KEYVAULT_SYNC_AUTHORITY_HOST
    value: {{ . | quote }}
  {{- end }}
  - name: KEYVAULT_SYNC_PFX_ENCRYPTION
    value: {{ .Values.settings.pfxEncryption | quote }}
  - name: KEYVAULT_SYNC_COPIES_PATIENCE
    value: {{ .Values.settings.copiesPatience | quote }}
  - name: KEYVAULT_SYNC_DELETION_EFFORT
    value: {{ .Values.settings.deletionEffort | quote }}
  - name: KEYVAULT_SYNC_WATCH_TIMEOUT
    value: {{ .Values.settings.watchTimeout | quote }}
  - name: KEYVAULT_SYNC_CERTIFICATE_METRICS
    value: {{ ternary "on" "off" .Values.settings.certificateMetrics | quote }}
  - name: KEYVAULT_SYNC_LOG_FORMAT
    value: {{ .Values.settings.logFormat | quote }}
  - name: KEYVAULT_SYNC_LOG
    value: {{ .Values.settings.log | quote }}
  {{- with .Values.watchNamespaces }}
  {{- $_ := required "watchNamespaces needs settings.clusterId: the operator may not read the namespace kube-system then" $.Values.settings.clusterId }}
  - name: KEYVAULT_SYNC_WATCH_NAMESPACES
    value: {{ join "," . | quote }}
  {{- end }}
  {{- if .Values.serviceAccountIdentities.enabled }}
  - name: KEYVAULT_SYNC_SERVICE_ACCOUNTS
    value: {{ join "," .Values.serviceAccountIdentities.names | default "*" | quote }}
  {{- end }}
  {{- if include "keyvault-sync.caBundle" . }}
  - name: KEYVAULT_SYNC_CA_BUNDLE
    value: {{ printf "/etc/keyvault-sync/ca/%s" .Values.caBundle.key | quote }}
  {{- end }}
  {{- with .Values.proxy.https }}
  - name: HTTPS_PROXY
    value: {{ . | quote }}
  {{- end }}
  {{- with .Values.proxy.noProxy }}
  - name: NO_PROXY
    value: {{ . | quote }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "keyvault-sync.volumeMounts" -}}
{{- if include "keyvault-sync.caBundle" . }}
- name: ca-bundle
  mountPath: /etc/keyvault-sync/ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "keyvault-sync.volumes" -}}
{{- $caBundle := include "keyvault-sync.caBundle" . }}
{{- if eq $caBundle "secret" }}
- name: ca-bundle
  secret:
    secretName: {{ .Values.caBundle.secret }}
{{- else if $caBundle }}
- name: ca-bundle
  configMap:
    name: {{ .Values.caBundle.configMap | default (printf "%s-ca" (include "keyvault-sync.fullname" .)) }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Whether the cluster knows a kind of the Prometheus operator. `helm template` knows none but those of --api-versions. */}}
{{- define "keyvault-sync.serviceMonitor" -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.service.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor") }}yes{{ end -}}
{{- end -}}
{{- define "keyvault-sync.prometheusRule" -}}
{{- if and .Values.metrics.prometheusRule.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PrometheusRule") }}yes{{ end -}}
{{- end -}}
