//! `stint lint` as a user meets it, and as CI does: the real program, files, an exit code.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Lints a file of this text.
fn lint(manifest: &str, args: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.yaml");
    fs::write(&file, manifest).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint"));
    let Output { status, stdout, stderr } =
        command.arg("lint").arg(&file).args(args).env("TZ", "UTC").stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), told.replace(&format!("{}/", folder.path().display()), ""))
}

const JOB: &str = "\
apiVersion: batch/v1
kind: Job
metadata: { name: j }
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{ name: c, image: i }]
";

#[test]
fn what_is_in_order_is_passed_over_in_silence() {
    for target in ["stint", "cluster"] {
        assert_eq!(lint(JOB, &["--for", target]), (Some(0), String::new()));
    }
}

#[test]
fn what_the_api_refuses_breaks_with_the_line_and_the_field() {
    let wrong = format!("# one that is fine\n{JOB}---\n{}", JOB.replace("Never", "Always"));
    let (code, told) = lint(&wrong, &[]);
    assert_eq!(code, Some(1), "{told}");
    assert_eq!(
        told,
        "m.yaml:11: breaks: Job \"j\": spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"\n"
    );
    let misspelt = JOB.replace("restartPolicy", "restartPolice");
    assert_eq!(
        lint(&misspelt, &[]),
        (Some(1), "m.yaml:7: breaks: unknown field \"spec.template.spec.restartPolice\"\n".to_owned())
    );
    let (code, told) = lint("a: [", &[]);
    assert!(code == Some(1) && told.starts_with("m.yaml:"), "{told}");
}

#[test]
fn kinds_that_nothing_here_reconciles_break_here_and_not_in_a_cluster() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\n";
    let widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: { name: w }\n";
    for (manifest, kind) in [(deployment, "Deployment \"d\""), (widget, "Widget \"w\"")] {
        let (code, told) = lint(manifest, &[]);
        assert!(code == Some(1) && told.starts_with(&format!("m.yaml:1: breaks: {kind}: ")), "{told}");
        let (code, told) = lint(manifest, &["--for", "cluster"]);
        assert!(code == Some(0) && told.starts_with(&format!("m.yaml:1: note: {kind}: ")), "{told}");
    }
}

#[test]
fn what_is_otherwise_is_told_of_each_side_and_breaks_nothing() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: s }\nspec: { ports: [{ port: 80 }] }\n";
    let (code, told) = lint(service, &[]);
    assert!(code == Some(0) && told.contains("differs: Service \"s\": Services headless ones"), "{told}");
    assert_eq!(lint(service, &["--for", "cluster"]), (Some(0), String::new()));
    let host = JOB.replace("    spec:", "    metadata: { annotations: { stint.dev/rootfs: host } }\n    spec:");
    let (code, told) = lint(&host, &["--for", "cluster"]);
    assert!(code == Some(0) && told.contains("differs: Job \"j\": the annotation stint.dev/rootfs"), "{told}");
}

#[test]
fn what_this_node_does_not_honour_differs_or_breaks_here_and_is_nothing_to_a_cluster() {
    let asking = |field: &str| JOB.replace("      restartPolicy", &format!("      {field}\n      restartPolicy"));
    for (field, path, code, severity) in [
        ("runtimeClassName: x", "runtimeClassName", 0, "differs"),
        ("volumes: [{ name: v, nfs: { server: s, path: / } }]", "volumes[0].nfs", 1, "breaks"),
    ] {
        let (ended, told) = lint(&asking(field), &[]);
        let expected = format!("m.yaml:1: {severity}: Job \"j\": spec.template.spec.{path}: ");
        assert!(ended == Some(code) && told.starts_with(&expected), "{told}");
        assert_eq!(lint(&asking(field), &["--for", "cluster"]), (Some(0), String::new()));
    }
}

#[test]
fn findings_are_a_list_in_json_for_machines() {
    let cron_job = "\
apiVersion: batch/v1
kind: CronJob
metadata: { name: c }
spec:
  schedule: 30 2 * * *
  timeZone: Europe/Berlin
  jobTemplate: { spec: { template: { spec: { restartPolicy: Never, containers: [{ name: c, image: i }] } } } }
";
    let (code, told) = lint(cron_job, &["-o", "json"]);
    assert_eq!(code, Some(0), "{told}");
    let findings: Value = serde_json::from_str(&told).unwrap();
    let findings = findings.as_array().unwrap();
    assert_eq!(findings.len(), 2, "the clocks change twice a year: {told}");
    for finding in findings {
        assert_eq!(
            (&finding["severity"], &finding["object"], &finding["line"]),
            (&"note".into(), &"CronJob \"c\"".into(), &1.into())
        );
        assert!(finding["message"].as_str().unwrap().starts_with("spec.schedule: on 2"), "{told}");
    }
}
