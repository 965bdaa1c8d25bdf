//! A release's life with Helm 3 and Helm 4, which are built on client-go and its own ways to wait and to apply: a chart with a
//! hook, a CronJob and what goes with it is installed, changed, rolled back and removed.

use std::fs;

use serde_json::Value;

use crate::kubectl::Session;
use crate::{Daemon, installed};

const CHART: &str = "
apiVersion: v2
name: nightly
version: 1.2.3
description: A report every night
";

const VALUES: &str = "
schedule: 0 3 * * *
greeting: hello
migration: echo migrated
";

const NOTES: &str = "The report runs at {{ .Values.schedule }}.";

/// Runs to its end before anything else is installed, and is removed when it succeeds.
const HOOK: &str = "
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-migrate
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 0
  template:
    metadata:
      annotations: { stint.dev/rootfs: host }
    spec:
      restartPolicy: Never
      containers:
      - name: migrate
        image: host
        command: [sh, -c, {{ .Values.migration | quote }}]
";

const OBJECTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .Release.Name }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .Release.Name }}
rules:
- { apiGroups: [batch], resources: [jobs], verbs: [get, list] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .Release.Name }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .Release.Name }} }
subjects:
- { kind: ServiceAccount, name: {{ .Release.Name }} }
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  greeting: {{ .Values.greeting }}
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ .Release.Name }}
spec:
  schedule: {{ .Values.schedule | quote }}
  jobTemplate:
    spec:
      template:
        spec:
          serviceAccountName: {{ .Release.Name }}
          restartPolicy: OnFailure
          containers:
          - name: report
            image: host
            envFrom:
            - configMapRef: { name: {{ .Release.Name }} }
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-first-{{ .Release.Revision }}
spec:
  template:
    metadata:
      annotations: { stint.dev/rootfs: host }
    spec:
      restartPolicy: Never
      containers:
      - name: first
        image: host
        command: [echo, {{ .Values.greeting | quote }}]
";

#[test]
fn helm_installs_changes_rolls_back_and_removes_a_release() {
    let helms = ["go-32", "go-36"].map(|folder| installed(&format!("{folder}/helm/helm")));
    if helms.iter().all(Option::is_none) {
        return;
    }
    let Some(daemon) = Daemon::with_agent() else { return };
    for path in helms.into_iter().flatten() {
        let client = Session::new(&daemon, "helm", path.clone()).ok(&["version", "--template", "helm {{ .Version }}"]);
        let session = Session::new(&daemon, &client, path);
        release(&session);
    }
}

/// What a release has become, as `helm list` tells.
fn listed(session: &Session) -> Vec<(String, String, String)> {
    let out = session.ok(&["list", "--all-namespaces", "-o", "json"]);
    let list: Vec<Value> = serde_json::from_str(&out).unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    list.iter().map(|row| (text(row, "name"), text(row, "revision"), text(row, "status"))).collect()
}

fn chart(session: &Session) {
    let file = |path: &str, content: &str| {
        let path = session.home().join("chart").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    file("Chart.yaml", CHART);
    file("values.yaml", VALUES);
    file("templates/NOTES.txt", NOTES);
    file("templates/migrate.yaml", HOOK);
    file("templates/objects.yaml", OBJECTS);
}

fn release(session: &Session) {
    chart(session);
    let namespace = session.namespace.as_str();
    let own = |args: &[&'static str]| [&["--namespace", namespace], args].concat();
    session.ok(&["lint", "chart"]);
    // The hook's Job is waited for, and with `--wait-for-jobs` the release's own Job, too.
    let install = ["install", "nightly", "chart", "--create-namespace", "--wait", "--wait-for-jobs", "--timeout=240s"];
    session.shows(&own(&install), &["STATUS: deployed", "REVISION: 1", "The report runs at 0 3 * * *."]);
    assert_eq!(listed(session), [("nightly".into(), "1".into(), "deployed".into())], "{}", session.client);
    session.shows(&own(&["status", "nightly"]), &["STATUS: deployed"]);
    session.shows(&own(&["get", "manifest", "nightly"]), &["kind: CronJob"]);
    let taken = session.run(&own(&["install", "nightly", "chart"]));
    assert!(taken.code == 1 && taken.errors.contains("a name that is still in use"), "{}: {taken:?}", session.client);

    let upgrade = ["upgrade", "nightly", "chart", "--set", "greeting=bye", "--wait", "--timeout=240s"];
    session.shows(&own(&upgrade), &["has been upgraded", "REVISION: 2"]);
    // A hook that fails makes the upgrade fail, and what is installed stays as it is.
    let broken = session.run(&own(&["upgrade", "nightly", "chart", "--set", "migration=exit 3", "--timeout=240s"]));
    assert!(broken.code == 1 && broken.errors.contains("pre-upgrade hooks failed"), "{}: {broken:?}", session.client);
    session.shows(&own(&["history", "nightly"]), &["superseded", "deployed", "failed"]);
    session.shows(&own(&["rollback", "nightly", "1", "--wait", "--timeout=240s"]), &["Rollback was a success"]);
    assert_eq!(listed(session), [("nightly".into(), "4".into(), "deployed".into())], "{}", session.client);

    session.shows(&own(&["uninstall", "nightly", "--wait", "--timeout=240s"]), &["release \"nightly\" uninstalled"]);
    assert_eq!(listed(session), [], "{}", session.client);
}
