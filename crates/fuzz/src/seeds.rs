//! Good objects, from which bad ones are made.

use serde_json::{Value, json};

/// A pod.
pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox:1"}], "restartPolicy": "Never"}})
}

/// A Job.
pub fn job(name: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "busybox:1"}], "restartPolicy": "Never"}}}})
}

/// A ConfigMap.
pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

/// A CronJob.
pub fn cron_job() -> Value {
    let job = job("x");
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cj"},
        "spec": {"schedule": "*/5 * * * *", "timeZone": "Etc/UTC", "startingDeadlineSeconds": 5, "jobTemplate": {"spec": job["spec"]}}})
}

/// A Job with something in many of its fields.
pub fn rich_job() -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "j", "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["a.b/c"]},
        "spec": {"parallelism": 2, "completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
            "maxFailedIndexes": 2, "activeDeadlineSeconds": 9, "ttlSecondsAfterFinished": 1, "suspend": true,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2]}}]},
            "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]},
            "template": {"metadata": {"labels": {"e": "f"}}, "spec": {"restartPolicy": "Never",
                "securityContext": {"runAsUser": 1, "sysctls": [{"name": "a", "value": "b"}]},
                "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 1}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}}],
                "initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always"}],
                "containers": [{"name": "c", "image": "busybox:1", "command": ["sh"], "args": ["-c", "$(A)"],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                    "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
                    "ports": [{"containerPort": 80, "name": "http"}],
                    "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]}]}}}})
}
