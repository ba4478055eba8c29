{{- define "kserve-rag-frontend.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 63 characters: a Service's name is a DNS label. */}}
{{- define "kserve-rag-frontend.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/*
A Deployment's selector can never be changed. These are the ones that `helm create` makes: with nameOverride the
Deployment of a chart of another name is upgraded in place.
*/}}
{{- define "kserve-rag-frontend.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kserve-rag-frontend.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/*
There is no app.kubernetes.io/part-of: the graph's policies select by it, and close what they select to all but the
graph's own arrows.
*/}}
{{- define "kserve-rag-frontend.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "kserve-rag-frontend.podLabels" . }}
{{- end }}

{{- define "kserve-rag-frontend.podLabels" -}}
{{ include "kserve-rag-frontend.selectorLabels" . }}
app.kubernetes.io/component: frontend
{{- if .Values.ezua.enabled }}
hpe-ezua/app: {{ .Release.Name }}
hpe-ezua/type: vendor-service
{{- end }}
{{- end }}

{{- define "kserve-rag-frontend.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "kserve-rag-frontend.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "kserve-rag-frontend.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{/* A text with its domain. Without one the placeholder stays: a chart has to render before its values are filled in. */}}
{{- define "kserve-rag-frontend.withDomain" -}}
{{- .text | replace "${DOMAIN_NAME}" (default "${DOMAIN_NAME}" .values.ezua.domainName) }}
{{- end }}

{{/* The page's host name. */}}
{{- define "kserve-rag-frontend.endpoint" -}}
{{- include "kserve-rag-frontend.withDomain" (dict "text" .Values.ezua.virtualService.endpoint "values" .Values) }}
{{- end }}

{{- define "kserve-rag-frontend.hasVirtualService" -}}
{{- if and .Values.ezua.enabled .Values.ezua.virtualService.enabled }}true{{ end }}
{{- end }}

{{- define "kserve-rag-frontend.hasAuthorizationPolicy" -}}
{{- if and (include "kserve-rag-frontend.hasVirtualService" .) .Values.ezua.authorizationPolicy.enabled }}true{{ end }}
{{- end }}

{{/* A security context without root, unless it says that it means root: values of charts that ran as root go on working. */}}
{{- define "kserve-rag-frontend.securityContext" -}}
{{- if and .runAsNonRoot (hasKey .context "runAsUser") (eq (toString .context.runAsUser) "0") }}
{{- toYaml (omit .context "runAsUser") }}
{{- else }}
{{- toYaml .context }}
{{- end }}
{{- end }}

{{/* What the schema cannot say, all at once. */}}
{{- define "kserve-rag-frontend.check" -}}
{{- $found := list }}
{{- $urls := dict "transformer.url" .Values.transformer.url }}
{{- if .Values.ingest.url }}
{{- $_ := set $urls "ingest.url" .Values.ingest.url }}
{{- end }}
{{- range $name, $url := $urls }}
{{- if not (regexMatch "^https?://[^/ ]+" $url) }}
{{- $found = append $found (printf "%s is %q: it has to be a URL as http://kserve-rag-transformer.my-namespace" $name $url) }}
{{- end }}
{{- end }}
{{- if include "kserve-rag-frontend.hasVirtualService" . }}
{{- $endpoint := include "kserve-rag-frontend.endpoint" . }}
{{- if not $endpoint }}
{{- $found = append $found "ezua.virtualService.endpoint is empty: it is the host name of the page, as rag.example.com; without Istio set ezua.enabled to false" }}
{{- else if regexMatch "[/: *]" $endpoint }}
{{- $found = append $found (printf "ezua.virtualService.endpoint is %q: it has to be one host name without scheme, port, path and *, as rag.example.com" $endpoint) }}
{{- end }}
{{- if not (regexMatch "^([^/ ]+/)?[^/ ]+$" .Values.ezua.virtualService.istioGateway) }}
{{- $found = append $found (printf "ezua.virtualService.istioGateway is %q: it has to be <namespace>/<name>, as istio-system/ezaf-gateway" .Values.ezua.virtualService.istioGateway) }}
{{- end }}
{{- end }}
{{- $wanted := list }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) (include "kserve-rag-frontend.hasVirtualService" .) }}
{{- $wanted = list "namespace" "matchLabels" }}
{{- end }}
{{- if include "kserve-rag-frontend.hasAuthorizationPolicy" . }}
{{- $wanted = list "namespace" "matchLabels" "providerName" }}
{{- end }}
{{- range $name := $wanted }}
{{- if not (get $.Values.ezua.authorizationPolicy $name) }}
{{- $found = append $found (printf "ezua.authorizationPolicy.%s is empty: AuthorizationPolicy and NetworkPolicy name the gateway by it; without both set ezua.authorizationPolicy.enabled and networkPolicy.enabled to false" $name) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- $found = append $found "ingress.hosts is empty: with ingress.enabled it has to have one host, as {host: rag.example.com, paths: [{path: /, pathType: Prefix}]}" }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if .enabled }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- $found = append $found (printf "autoscaling.minReplicas is %d: it has to be at most autoscaling.maxReplicas, which is %d" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- if not (or .targetCPUUtilizationPercentage .targetMemoryUtilizationPercentage) }}
{{- $found = append $found "autoscaling.targetCPUUtilizationPercentage and autoscaling.targetMemoryUtilizationPercentage are null: one of them has to be set, as 80" }}
{{- end }}
{{- $requests := default dict $.Values.resources.requests }}
{{- if and .targetCPUUtilizationPercentage (not (get $requests "cpu")) }}
{{- $found = append $found "resources.requests.cpu is not set: autoscaling.targetCPUUtilizationPercentage is in percent of it" }}
{{- end }}
{{- if and .targetMemoryUtilizationPercentage (not (get $requests "memory")) }}
{{- $found = append $found "resources.requests.memory is not set: autoscaling.targetMemoryUtilizationPercentage is in percent of it" }}
{{- end }}
{{- end }}
{{- end }}
{{- if $found }}
{{- fail (printf "\n- %s" (join "\n- " $found)) }}
{{- end }}
{{- end }}
