//! Sessions of real kubectls that change objects: apply on both sides, label, annotate, patch, set image, edit.
//!
//! Each test runs with every kubectl that is on the machine, and says that it is skipped where there is none.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::api;
use serde_json::{Value, json};
use stint_server::router;

/// Where kubectls of several versions lie side by side on machines with a cloud SDK.
const FOLDER: &str = "/usr/lib/google-cloud-sdk/bin";

fn kubectls(from: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(FOLDER).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let minor = |path: &Path| path.extension()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<PathBuf> = entries
        .iter()
        .map(std::fs::DirEntry::path)
        .filter(|path| minor(path).is_some_and(|minor| minor >= from))
        .collect();
    found.sort();
    if found.is_empty() {
        println!("skipped: no kubectl.1.* in {FOLDER}");
    }
    found
}

struct World {
    address: std::net::SocketAddr,
    home: tempfile::TempDir,
    kubectl: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    fn new(kubectl: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let router = router(api());
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        });
        Self { address, home: tempfile::tempdir().unwrap(), kubectl: kubectl.to_owned(), _runtime: runtime }
    }

    /// What it printed, with its errors in brackets, and its exit code.
    fn told(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.kubectl)
            .arg(format!("--server=http://{}", self.address))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("KUBE_EDITOR", "sed -i s/parallelism:.1/parallelism:\\ 4/")
            .current_dir(self.home.path())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let errors = text(&output.stderr);
        let errors = if errors.is_empty() { errors } else { format!("[{errors}]") };
        format!("{}{errors}({})", text(&output.stdout), output.status.code().unwrap_or(-1))
    }

    fn expect(&self, arguments: &[&str], expected: &str) {
        assert_eq!(self.told(arguments), expected, "{}: {arguments:?}", self.kubectl.display());
    }

    fn file(&self, name: &str, object: &Value) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, object.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn get(&self) -> Value {
        let output = self.told(&["get", "cronjob", "c", "-o", "json", "--show-managed-fields"]);
        serde_json::from_str(output.trim_end_matches("(0)")).unwrap_or_else(|error| panic!("{error}: {output}"))
    }
}

fn cron_job(image: &str) -> Value {
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": image}]}});
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "c"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"parallelism": 1, "template": template}}},
    })
}

#[test]
fn objects_are_labelled_annotated_patched_and_given_images() {
    for kubectl in kubectls(27) {
        let world = World::new(&kubectl);
        let path = "/apis/batch/v1/namespaces/default/cronjobs";
        let made = world.told(&["create", "--raw", path, "-f", &world.file("c", &cron_job("busybox:1"))]);
        assert!(made.ends_with("(0)"), "{made}");
        world.expect(&["label", "cronjob", "c", "a=1"], "cronjob.batch/c labeled\n(0)");
        world.expect(&["label", "cronjob", "c", "a=1"], "cronjob.batch/c not labeled\n(0)");
        world.expect(&["label", "cronjob", "c", "a-"], "cronjob.batch/c unlabeled\n(0)");
        let annotated = world.told(&["annotate", "cronjob", "c", "a=1"]); // "annotate" before 1.28
        assert!(annotated.starts_with("cronjob.batch/c annotate") && annotated.ends_with("\n(0)"), "{annotated}");
        world.expect(&["set", "image", "cronjob/c", "x=busybox:2"], "cronjob.batch/c image updated\n(0)");
        world.expect(&["patch", "cronjob", "c", "-p", r#"{"spec":{"suspend":true}}"#], "cronjob.batch/c patched\n(0)");
        let patch = r#"[{"op":"replace","path":"/spec/suspend","value":false}]"#;
        world.expect(&["patch", "cronjob", "c", "--type=json", "-p", patch], "cronjob.batch/c patched\n(0)");
        let patch = r#"{"spec":{"suspend":false}}"#;
        world.expect(
            &["patch", "cronjob", "c", "--type=merge", "-p", patch],
            "cronjob.batch/c patched (no change)\n(0)",
        );
        let object = world.get();
        assert_eq!(object["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"], "busybox:2");
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let managers = entries.iter().map(|entry| entry["manager"].as_str().unwrap());
        // The creation was raw, so that its manager is what kubectl calls itself.
        let mut managers: Vec<&str> = managers.filter(|manager| manager.starts_with("kubectl-")).collect();
        managers.sort_unstable();
        assert_eq!(managers, ["kubectl-annotate", "kubectl-patch", "kubectl-set"]);
        assert_eq!(entries.len(), 4);
    }
}

#[test]
fn configurations_are_applied_on_either_side() {
    // Before 1.29 apply asks for the OpenAPI document of version 2, whatever it is told not to validate.
    for kubectl in kubectls(29) {
        let world = World::new(&kubectl);
        let (first, second) = (world.file("1", &cron_job("busybox:1")), world.file("2", &cron_job("busybox:2")));
        let server = |file: &str, more: &[&str]| {
            world.told(&[&["apply", "--server-side", "--validate=false", "-f", file], more].concat())
        };
        assert_eq!(server(&first, &[]), "cronjob.batch/c serverside-applied\n(0)");
        let version = world.get()["metadata"]["resourceVersion"].clone();
        assert_eq!(server(&first, &[]), "cronjob.batch/c serverside-applied\n(0)");
        assert_eq!(world.get()["metadata"]["resourceVersion"], version, "applying again changes nothing");
        let refused = server(&second, &["--field-manager=other"]);
        assert!(refused.contains("Apply failed with 1 conflict: conflict with \"kubectl\""), "{refused}");
        assert!(refused.ends_with("(1)"), "{refused}");
        let forced = server(&second, &["--field-manager=other", "--force-conflicts"]);
        assert_eq!(forced, "cronjob.batch/c serverside-applied\n(0)");
        world.expect(&["delete", "cronjob", "c"], "cronjob.batch \"c\" deleted\n(0)");

        let client = |file: &str| world.told(&["apply", "--validate=false", "-f", file]);
        assert_eq!(client(&first), "cronjob.batch/c created\n(0)");
        assert_eq!(client(&first), "cronjob.batch/c unchanged\n(0)");
        assert_eq!(client(&second), "cronjob.batch/c configured\n(0)");
        world.expect(&["edit", "--validate=false", "cronjob", "c"], "cronjob.batch/c edited\n(0)");
        assert_eq!(world.get()["spec"]["jobTemplate"]["spec"]["parallelism"], 4);
        // From client-side to server-side apply without conflicts.
        world.expect(&["label", "cronjob", "c", "a=1"], "cronjob.batch/c labeled\n(0)");
        let mut third = cron_job("busybox:3");
        third["spec"]["jobTemplate"]["spec"]["parallelism"] = json!(4);
        let moved = server(&world.file("3", &third), &[]);
        assert_eq!(moved, "cronjob.batch/c serverside-applied\n(0)");
        let object = world.get();
        assert_eq!(object["metadata"]["labels"]["a"], "1");
        assert_eq!(object["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"], "busybox:3");
    }
}
