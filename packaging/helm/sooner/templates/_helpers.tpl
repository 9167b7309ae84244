{{- define "sooner.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "sooner.labels" -}}
app.kubernetes.io/name: sooner
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "sooner.selector" -}}
app.kubernetes.io/name: sooner
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* How the listener is asked: by kubelets, too, which check no certificate. */}}
{{- define "sooner.scheme" -}}
{{- ternary "HTTPS" "HTTP" (ne .Values.http.tls.existingSecret "") -}}
{{- end -}}

{{- define "sooner.serviceAccount" -}}
{{- default (ternary (include "sooner.name" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The pod of a process: a dict of root, command, resources and state, which is how its volume is written. */}}
{{- define "sooner.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "sooner.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    checksum/config: {{ include (print $root.Template.BasePath "/configmap.yaml") $root | sha256sum }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "sooner.serviceAccount" $root }}
  # What is on its way is committed, and the slot confirmed.
  terminationGracePeriodSeconds: 60
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    fsGroup: 10001
    seccompProfile: { type: RuntimeDefault }
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: sooner
      image: "{{ $root.Values.image.repository }}:{{ default $root.Chart.AppVersion $root.Values.image.tag }}"
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .command }}]
      envFrom:
        - secretRef: { name: {{ $root.Values.existingSecret }} }
      ports:
        - { name: http, containerPort: {{ $root.Values.http.port }} }
      startupProbe:
        httpGet: { path: /livez, port: http, scheme: {{ include "sooner.scheme" $root }} }
        failureThreshold: 30
        periodSeconds: 2
      livenessProbe:
        httpGet: { path: /livez, port: http, scheme: {{ include "sooner.scheme" $root }} }
        periodSeconds: 10
        failureThreshold: 3
      readinessProbe:
        httpGet: { path: /readyz, port: http, scheme: {{ include "sooner.scheme" $root }} }
        periodSeconds: 5
      resources:
        {{- toYaml .resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      volumeMounts:
        - { name: config, mountPath: /etc/sooner, readOnly: true }
        - { name: state, mountPath: /var/lib/sooner }
        {{- if $root.Values.http.tls.existingSecret }}
        - { name: tls, mountPath: /etc/sooner-tls, readOnly: true }
        {{- end }}
  volumes:
    {{- with $root.Values.http.tls.existingSecret }}
    - name: tls
      secret: { secretName: {{ . }} }
    {{- end }}
    - name: config
      configMap: { name: {{ include "sooner.name" $root }} }
    {{- if not .claimed }}
    - name: state
      emptyDir: {}
    {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
