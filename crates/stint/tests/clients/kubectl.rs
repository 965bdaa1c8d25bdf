//! What a user does in a day with kubectl, by every kubectl of the machine at once, each in its own namespace.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{Daemon, GO_CLIENTS, installed, limited};

/// How many sessions run at once: a session mostly waits.
const AT_ONCE: usize = 3;
/// How long one command may take, in seconds.
const LIMIT: u32 = 300;

/// The kubectls of this machine, one per version: `STINT_KUBECTL`, those of a cloud SDK, those on the path, and those that
/// `scripts/clients` installs.
pub fn kubectls() -> BTreeMap<String, PathBuf> {
    let folder = "/usr/lib/google-cloud-sdk/bin";
    let of_sdk = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_sdk = of_sdk.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("kubectl.1."));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("kubectl")).filter(|path| path.is_file());
    let named = std::env::var_os("STINT_KUBECTL").map(PathBuf::from);
    let installed = GO_CLIENTS.iter().filter_map(|folder| installed(&format!("{folder}/kubectl/kubectl")));
    let mut found = BTreeMap::new();
    for path in named.into_iter().chain(of_sdk).chain(on_path).chain(installed) {
        let output = Command::new(&path).args(["version", "--client", "-o", "json"]).output().unwrap();
        let Ok(version) = serde_json::from_slice::<Value>(&output.stdout) else { continue };
        let version = &version["clientVersion"];
        let minor = version["minor"].as_str().unwrap_or_default().trim_end_matches('+');
        found.entry(format!("{}.{minor}", version["major"].as_str().unwrap_or_default())).or_insert(path);
    }
    found
}

#[test]
fn every_kubectl_does_what_it_does_on_a_cluster() {
    let found = kubectls();
    if found.is_empty() {
        eprintln!("skipped: there is no kubectl on this machine");
        return;
    }
    let Some(daemon) = Daemon::with_agent() else { return };
    let waiting = Mutex::new(found.into_iter().collect::<Vec<_>>());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((version, path)) = waiting.lock().unwrap().pop() else { break };
                    let session = Session::new(&daemon, &format!("kubectl {version}"), path);
                    let began = Instant::now();
                    let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| whole(&session))).is_ok();
                    let (commands, took) = (session.commands.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
                    eprintln!("kubectl {version}: {commands} commands in {took:.1} s");
                    if !passed {
                        failed.lock().unwrap().push(version);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "what failed with kubectl {failed:?} is above");
}

/// One kubectl, its namespace and its home.
pub struct Session {
    path: PathBuf,
    /// Which client, as `kubectl 1.33`.
    pub client: String,
    pub namespace: String,
    home: tempfile::TempDir,
    commands: AtomicUsize,
}

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub out: String,
    pub errors: String,
}

impl Session {
    pub fn new(daemon: &Daemon, client: &str, path: PathBuf) -> Session {
        let home = tempfile::tempdir().unwrap();
        std::fs::copy(daemon.kubeconfig(), home.path().join("kubeconfig")).unwrap();
        let namespace = client.replace([' ', '.'], "-");
        let (client, commands) = (client.to_owned(), AtomicUsize::new(0));
        Session { path, client, namespace, home, commands }
    }

    /// Where it runs.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let mut command = limited(LIMIT, &self.path);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env("KUBE_EDITOR", "sed -i s/suspend:.false/suspend:\\ true/")
            .current_dir(self.home.path());
        command
    }

    /// Runs kubectl to its end.
    pub fn run(&self, args: &[&str]) -> Told {
        let output = self.command(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Told { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), errors: text(&output.stderr) }
    }

    /// What it prints when all goes well.
    pub fn ok(&self, args: &[&str]) -> String {
        let told = self.run(args);
        assert_eq!(told.code, 0, "{}: {args:?}: {told:?}", self.client);
        told.out
    }

    pub fn says(&self, args: &[&str], expected: &str) {
        assert_eq!(self.ok(args), format!("{expected}\n"), "{}: {args:?}", self.client);
    }

    /// It prints all of `parts`, in this order.
    pub fn shows(&self, args: &[&str], parts: &[&str]) -> String {
        let out = self.ok(args);
        let missing = missing(&out, parts);
        assert_eq!(missing, None, "{}: {args:?} does not show it:\n{out}", self.client);
        out
    }

    /// It prints all of `parts`, in this order, before long: Events are written behind everything else.
    pub fn comes_to_show(&self, args: &[&str], parts: &[&str]) {
        let patience = Instant::now() + Duration::from_mins(2);
        while missing(&self.ok(args), parts).is_some() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.shows(args, parts);
    }

    /// It fails and says `part`.
    pub fn refused(&self, args: &[&str], part: &str) {
        let told = self.run(args);
        assert!(told.code == 1 && told.errors.contains(part), "{}: {args:?}: {told:?}", self.client);
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{}: {args:?}: {error}: {out}", self.client))
    }

    /// Writes a manifest, and returns the name of the file.
    pub fn file<'n>(&self, name: &'n str, object: &Value) -> &'n str {
        std::fs::write(self.home.path().join(name), object.to_string()).unwrap();
        name
    }
}

/// Ends what runs under a time limit: SIGTERM, which is passed on.
fn end(mut child: Child) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    child.wait().unwrap();
}

fn template(app: &str, script: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app }, "annotations": { "stint.dev/rootfs": "host" } },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": "host", "command": ["sh", "-c", script] }],
        },
    })
}

pub fn job(name: &str, backoff_limit: i32, script: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "backoffLimit": backoff_limit, "template": template(name, script) },
    })
}

fn cron_job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "nightly" },
        "spec": { "schedule": "0 3 29 2 *", "jobTemplate": { "spec": { "template": template("nightly", "echo night") } } },
    })
}

fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "set": "x" } } })
}

fn whole(session: &Session) {
    let namespace = session.namespace.as_str();
    session.says(&["create", "namespace", namespace], &format!("namespace/{namespace} created"));
    session.ok(&["config", "set-context", "--current", "--namespace", namespace]);
    runs_a_job(session);
    applies(session);
    runs_a_cron_job(session);
    changes(session);
    creates_and_is_allowed(session);
    asks_about_the_api(session);
    is_told_what_is_wrong(session);
    reaches_into_a_pod(session);
    lists(session);
    deletes(session);
    prunes(session);
    session.ok(&["delete", "namespace", namespace]);
    session.refused(&["get", "namespace", namespace], &format!("namespaces \"{namespace}\" not found"));
    assert_eq!(session.ok(&["get", "configmaps", "-o", "name"]), "", "what was in the namespace is gone with it");
}

fn runs_a_job(session: &Session) {
    let file = session.file("pi.yaml", &job("pi", 0, "echo 3.14159; echo done >&2"));
    session.says(&["create", "-f", file, "--dry-run=server", "-o", "name"], "job.batch/pi");
    // A watch from before the Job is there until it is complete.
    let mut watch = session.command(&["get", "jobs", "-w", "--no-headers"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    session.says(&["apply", "-f", file], "job.batch/pi created");
    session.says(&["wait", "--for=condition=complete", "job/pi", "--timeout=240s"], "job.batch/pi condition met");
    let mut seen = String::new();
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    while !seen.contains("Complete ") {
        assert_ne!(lines.read_line(&mut seen).unwrap(), 0, "{}: the watch ended: {seen}", session.client);
    }
    end(watch);
    assert!(seen.starts_with("pi ") && seen.contains("1/1"), "{}: {seen}", session.client);

    let log = session.ok(&["logs", "-f", "job/pi"]);
    assert!(log.contains("3.14159\n") && log.contains("done\n"), "{}: {log:?}", session.client);
    session.says(&["logs", "job/pi", "--tail=1", "-c", "main"], log.lines().last().unwrap());
    session.shows(&["get", "job", "pi"], &["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE\npi", "Complete", "1/1"]);
    session.shows(
        &["get", "jobs", "-o", "wide"],
        &["CONTAINERS", "IMAGES", "SELECTOR\n", "main", "host", "controller-uid="],
    );
    session.says(&["get", "job", "pi", "-o", "name"], "job.batch/pi");
    session.says(&["get", "job", "pi", "-o", "jsonpath={.status.succeeded}{'\\n'}"], "1");
    session.says(&["get", "job", "pi", "-o", "go-template={{.spec.completionMode}}{{\"\\n\"}}"], "NonIndexed");
    session.shows(
        &["get", "job", "pi", "-o", "yaml"],
        &["apiVersion: batch/v1\nkind: Job\nmetadata:", "uncountedTerminatedPods: {}"],
    );
    let object = session.json(&["get", "job", "pi"]);
    assert_eq!(object["spec"]["podReplacementPolicy"], "TerminatingOrFailed");
    assert_eq!(object["status"]["conditions"][1]["type"], "Complete");
    session.comes_to_show(
        &["describe", "job", "pi"],
        &[
            "Name:",
            "pi",
            "Parallelism:",
            "1",
            "Pods Statuses:",
            "1 Succeeded",
            "SuccessfulCreate",
            "Completed",
            "Job completed",
        ],
    );
    session.comes_to_show(
        &["describe", "pod", "-l", "app=pi"],
        &[
            "Status:",
            "Succeeded",
            "Controlled By:  Job/pi",
            "State:",
            "Terminated",
            "Reason:",
            "Completed",
            "QoS Class:",
            "default-scheduler",
            "Successfully assigned ",
            "kubelet",
            "Container created",
            "Container started",
        ],
    );
    session
        .shows(&["get", "pods", "-o", "wide"], &["READY", "STATUS", "RESTARTS", "NODE", "\npi-", "0/1", "Completed"]);
}

/// The first of `parts` that `out` does not show behind those before it.
fn missing<'a>(out: &str, parts: &[&'a str]) -> Option<&'a str> {
    let mut rest = out;
    for part in parts {
        let Some(at) = rest.find(part) else { return Some(part) };
        rest = &rest[at + part.len()..];
    }
    None
}

fn applies(session: &Session) {
    session.says(&["apply", "-f", "pi.yaml"], "job.batch/pi unchanged");
    assert_eq!(session.ok(&["diff", "-f", "pi.yaml"]), "");
    let other = session.file("pi-2.yaml", &job("pi", 2, "echo 3.14159; echo done >&2"));
    let differs = session.run(&["diff", "-f", other]);
    assert!(differs.code == 1 && differs.out.contains("-  backoffLimit: 0\n+  backoffLimit: 2\n"), "{differs:?}");
    session.says(&["apply", "-f", other], "job.batch/pi configured");
    let server = ["apply", "--server-side", "-f"];
    session.says(&[&server[..], &[other]].concat(), "job.batch/pi serverside-applied");
    let conflict = [&server[..], &["pi.yaml", "--field-manager=other"]].concat();
    session.refused(&conflict, "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.backoffLimit");
    session.says(&[&conflict[..], &["--force-conflicts"]].concat(), "job.batch/pi serverside-applied");
    assert_eq!(session.json(&["get", "job", "pi"])["spec"]["backoffLimit"], 0);
    let object = session.json(&["get", "job", "pi", "--show-managed-fields"]);
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    let applier = |entry: &&Value| entry["manager"] == "other" && entry["operation"] == "Apply";
    assert_eq!(managers.iter().filter(applier).count(), 1, "{managers:?}");
}

fn runs_a_cron_job(session: &Session) {
    session.says(&["apply", "-f", session.file("nightly.yaml", &cron_job())], "cronjob.batch/nightly created");
    session.shows(
        &["get", "cronjobs"],
        &["NAME", "SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "\nnightly", "0 3 29 2 *", "False"],
    );
    session.says(&["create", "job", "now", "--from=cronjob/nightly"], "job.batch/now created");
    session.says(&["wait", "--for=condition=complete", "job/now", "--timeout=240s"], "job.batch/now condition met");
    session.says(&["logs", "job/now"], "night");
    let made = session.json(&["get", "job", "now"]);
    assert_eq!(made["metadata"]["annotations"]["cronjob.kubernetes.io/instantiate"], "manual");
    assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    session.shows(
        &["describe", "cj", "nightly"],
        &["Schedule:", "0 3 29 2 *", "Concurrency Policy:", "Allow", "Pod Template:"],
    );
    session.says(&["edit", "cronjob", "nightly"], "cronjob.batch/nightly edited");
    session.says(&["get", "cronjob", "nightly", "-o", "jsonpath={.spec.suspend}{'\\n'}"], "true");
}

fn changes(session: &Session) {
    let patch = |kind: &str, patch: &str| {
        session.says(&["patch", "cronjob", "nightly", kind, "-p", patch], "cronjob.batch/nightly patched");
    };
    patch(
        "--type=strategic",
        r#"{"spec":{"suspend":false,"jobTemplate":{"spec":{"template":{"spec":{"containers":[{"name":"more","image":"host"}]}}}}}}"#,
    );
    let containers = "jsonpath={.spec.jobTemplate.spec.template.spec.containers[*].name}{'\\n'}";
    session.says(&["get", "cronjob", "nightly", "-o", containers], "more main");
    patch("--type=merge", r#"{"spec":{"suspend":true}}"#);
    patch("--type=json", r#"[{"op":"replace","path":"/spec/suspend","value":false}]"#);
    session.says(&["label", "cronjob", "nightly", "a=b"], "cronjob.batch/nightly labeled");
    session.refused(&["label", "cronjob", "nightly", "a=c"], "--overwrite");
    session.says(&["label", "cronjob", "nightly", "a-"], "cronjob.batch/nightly unlabeled");
    // "annotate" before 1.28.
    let annotated = session.ok(&["annotate", "cronjob", "nightly", "a=b"]);
    assert!(annotated.starts_with("cronjob.batch/nightly annotate"), "{annotated}");
    session.says(&["set", "image", "cronjob/nightly", "main=other"], "cronjob.batch/nightly image updated");
    session.says(&["set", "env", "cronjob/nightly", "A=1"], "cronjob.batch/nightly env updated");
    session.refused(&["scale", "job", "pi", "--replicas=2"], "could not find the requested resource");
}

fn creates_and_is_allowed(session: &Session) {
    let account = format!("system:serviceaccount:{}:robot", session.namespace);
    let subject = format!("--serviceaccount={}:robot", session.namespace);
    session.says(&["create", "configmap", "words", "--from-literal=a=1"], "configmap/words created");
    session.says(&["create", "secret", "generic", "key", "--from-literal=p=secret"], "secret/key created");
    session.says(&["get", "secret", "key", "-o", "jsonpath={.data.p}{'\\n'}"], "c2VjcmV0");
    session.shows(&["describe", "secret", "key"], &["Type:  Opaque", "p:  6 bytes"]);
    session.says(&["create", "serviceaccount", "robot"], "serviceaccount/robot created");
    let role = ["create", "role", "reader", "--verb=get,list,watch", "--resource=jobs.batch,pods"];
    session.says(&role, "role.rbac.authorization.k8s.io/reader created");
    let binding = ["create", "rolebinding", "readers", "--role=reader", subject.as_str()];
    session.says(&binding, "rolebinding.rbac.authorization.k8s.io/readers created");

    session.says(&["auth", "can-i", "create", "jobs"], "yes");
    session.says(&["auth", "can-i", "list", "jobs", "--as", &account], "yes");
    let no = session.run(&["auth", "can-i", "create", "jobs", "--as", &account]);
    assert!(no.code == 1 && no.out == "no\n", "{}: {no:?}", session.client);
    session.shows(
        &["auth", "can-i", "--list", "--as", &account],
        &["Resources", "Verbs", "jobs.batch", "[get list watch]"],
    );
    let whoami = |more: &[&str], expected: &[&str]| {
        let args = [more, &["auth", "whoami"]].concat();
        // It asks for the alpha and beta versions alone, which a cluster of today has no more.
        if session.client == "kubectl 1.27" {
            return session.refused(&args, "the selfsubjectreviews API is not enabled");
        }
        session.shows(&args, expected);
    };
    whoami(&[], &["ATTRIBUTE", "VALUE", "\nUsername", "\nGroups", "system:masters"]);

    // As the account itself, by its token.
    let token = session.ok(&["create", "token", "robot", "--duration=10m"]);
    session.ok(&["config", "set-credentials", "robot", "--token", token.trim()]);
    session.ok(&[
        "config",
        "set-context",
        "robot",
        "--cluster=stint",
        "--user=robot",
        "--namespace",
        &session.namespace,
    ]);
    session.shows(&["--context=robot", "get", "jobs"], &["\nnow", "\npi"]);
    whoami(&["--context=robot"], &["Username", &account, "system:serviceaccounts"]);
    let forbidden = format!(
        "User \"{account}\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"{}\"",
        session.namespace
    );
    session.refused(&["--context=robot", "create", "configmap", "mine"], &forbidden);
    session.refused(&["--context=robot", "get", "secrets"], "secrets is forbidden: User");
    session.ok(&["config", "set-credentials", "robot", "--token", "made.up.token"]);
    session.refused(&["--context=robot", "get", "jobs"], "You must be logged in to the server");
}

fn asks_about_the_api(session: &Session) {
    session
        .shows(&["explain", "job.spec.backoffLimit"], &["backoffLimit <integer>", "DESCRIPTION:", "number of retries"]);
    session.shows(&["explain", "cronjobs", "--recursive"], &["CronJob", "jobTemplate", "containers", "livenessProbe"]);
    let resources = session.ok(&["api-resources", "--api-group=batch", "--no-headers"]);
    let rows: Vec<Vec<&str>> = resources.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [vec!["cronjobs", "cj", "batch/v1", "true", "CronJob"], vec!["jobs", "batch/v1", "true", "Job"]]);
    let named = session.ok(&["api-resources", "--namespaced=true", "--verbs=create,watch", "-o", "name"]);
    for name in ["configmaps", "jobs.batch", "leases.coordination.k8s.io", "rolebindings.rbac.authorization.k8s.io"] {
        assert!(named.lines().any(|line| line == name), "{}: {name} is not in {named}", session.client);
    }
    session.shows(&["api-versions"], &["\nbatch/v1\n", "\nv1\n"]);
    let version = session.json(&["version"]);
    assert!(version["serverVersion"]["gitVersion"].as_str().unwrap().starts_with("v1."), "{version}");
    session.shows(&["cluster-info"], &["is running at", "https://127.0.0.1:"]);
    assert_eq!(session.ok(&["get", "--raw", "/readyz"]), "ok");
}

fn is_told_what_is_wrong(session: &Session) {
    session.refused(&["get", "job", "none"], "Error from server (NotFound): jobs.batch \"none\" not found");
    session.refused(&["get", "nothings"], "the server doesn't have a resource type \"nothings\"");
    session.refused(&["create", "configmap", "words"], "configmaps \"words\" already exists");
    let mut wrong = job("wrong", 0, "true");
    wrong["spec"]["template"]["spec"]["containers"][0]["comand"] = json!(["x"]);
    let file = session.file("wrong.yaml", &wrong);
    session.refused(
        &["apply", "-f", file],
        "strict decoding error: unknown field \"spec.template.spec.containers[0].comand\"",
    );
    wrong = job("wrong", 0, "true");
    wrong["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
    let invalid = "The Job \"wrong\" is invalid: spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"";
    session.refused(&["create", "-f", session.file("wrong.yaml", &wrong)], invalid);
    let immutable = r#"{"spec":{"completionMode":"Indexed"}}"#;
    session.refused(&["patch", "job", "pi", "-p", immutable], "field is immutable");
}

fn reaches_into_a_pod(session: &Session) {
    // What a pod serves at its port: on the host's network that can be anybody.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"hello from the port");
        }
    });
    session.says(&["create", "-f", session.file("long.yaml", &job("long", 0, "sleep 600"))], "job.batch/long created");
    session.says(
        &["wait", "--for=jsonpath={.status.ready}=1", "job/long", "--timeout=240s"],
        "job.batch/long condition met",
    );
    session.shows(&["wait", "--for=condition=ready", "pod", "-l", "app=long"], &["pod/long-", "condition met"]);
    let pod = session.ok(&["get", "pod", "-l", "app=long", "-o", "jsonpath={.items[0].metadata.name}"]);

    let told = session.run(&["exec", "job/long", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((told.code, told.out.as_str()), (3, "out\n"), "{told:?}");
    assert!(told.errors.contains("err\n") && told.errors.contains("exit code 3"), "{told:?}");
    let mut command = session.command(&["exec", "-i", &pod, "--", "wc", "-c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 100_000]).unwrap();
    assert_eq!(String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).trim(), "100000");

    // All sessions share this machine's root.
    let there = format!("{pod}:/tmp/{}", session.namespace);
    std::fs::write(session.home.path().join("sent"), "hello").unwrap();
    session.ok(&["cp", "sent", &there]);
    session.ok(&["cp", &there, "back"]);
    assert_eq!(std::fs::read_to_string(session.home.path().join("back")).unwrap(), "hello");
    session.ok(&["exec", &pod, "--", "rm", &format!("/tmp/{}", session.namespace)]);

    let mut command = session.command(&["port-forward", &pod, &format!(":{port}"), "--address", "127.0.0.1"]);
    let mut forward = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(forward.stdout.take().unwrap());
    let mut said = String::new();
    lines.read_line(&mut said).unwrap();
    let local = said.split(' ').find_map(|word| word.strip_prefix("127.0.0.1:"));
    let local = local.unwrap_or_else(|| panic!("{}: {said}", session.client));
    let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{local}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("that the pod has closed the connection closes it here");
    end(forward);
    assert_eq!(answer, "hello from the port", "{}", session.client);
}

fn lists(session: &Session) {
    let all = session
        .shows(&["get", "all"], &["pod/long-", "Running", "cronjob.batch/nightly", "job.batch/long", "job.batch/pi"]);
    assert!(all.contains("pod/pi-"), "{all}");
    session.shows(
        &["get", "jobs,cronjobs", "-A"],
        &["NAMESPACE", &session.namespace, "job.batch/long", "cronjob.batch/nightly"],
    );
    let names = |more: &[&str]| session.ok(&[&["get", "jobs", "-o", "name"], more].concat());
    assert_eq!(names(&["--sort-by=.metadata.name"]), "job.batch/long\njob.batch/now\njob.batch/pi\n");
    assert_eq!(names(&["--sort-by={.metadata.creationTimestamp}"]).lines().last(), Some("job.batch/long"));
    assert_eq!(names(&["--chunk-size=1"]), "job.batch/long\njob.batch/now\njob.batch/pi\n");
    assert_eq!(names(&["-l", "app in (pi,long),app!=long"]), "job.batch/pi\n");
    assert_eq!(names(&["--field-selector=metadata.name=now"]), "job.batch/now\n");
    session.refused(
        &["get", "jobs", "--field-selector=spec.backoffLimit=0"],
        "field label \"spec.backoffLimit\" not supported for Job",
    );
    let running = session.ok(&["get", "pods", "--field-selector=status.phase=Running", "-o", "name"]);
    assert!(running.starts_with("pod/long-") && running.lines().count() == 1, "{running}");
    session.shows(&["get", "jobs", "--show-labels"], &["LABELS\n", "app=long"]);
    session.shows(&["get", "jobs", "-L", "app"], &["APP\n"]);
    let columns = "custom-columns=N:.metadata.name,B:.spec.backoffLimit";
    session.shows(&["get", "jobs", "-o", columns, "-l", "app=pi"], &["N ", "B\npi ", "0\n"]);
    session.comes_to_show(
        &["get", "events", "--sort-by=.metadata.creationTimestamp"],
        &["LAST SEEN", "SuccessfulCreate", "job/pi", "Created pod: pi-"],
    );
    session.comes_to_show(&["events", "--for=job/now"], &["SuccessfulCreate", "Job/now", "Created pod: now-"]);
    session.shows(&["get", "nodes"], &["NAME", "STATUS", "VERSION\n", "Ready"]);
    session.shows(&["describe", "namespace", &session.namespace], &["Status:", "Active"]);
    session.ok(&[
        "get",
        "services,endpoints,persistentvolumeclaims,resourcequotas,limitranges,deployments,statefulsets,ingresses",
    ]);
}

fn deletes(session: &Session) {
    let pods = |of: &str| session.ok(&["get", "pods", "-o", "name", "-l", &format!("job-name={of}")]);
    let deleted = |args: &[&str], what: &str| {
        session.shows(args, &[&format!("{what} deleted")]); // " from NAMESPACE namespace" from 1.34 on
    };
    deleted(&["delete", "job", "long", "--cascade=orphan"], "job.batch \"long\"");
    assert_eq!(pods("long").lines().count(), 1, "an orphan stays");
    let orphan = pods("long");
    session.ok(&["delete", orphan.trim(), "--grace-period=1"]);
    assert_eq!(pods("long"), "");

    session.ok(&["create", "-f", "long.yaml"]);
    let before = session.json(&["get", "job", "long"])["metadata"]["uid"].clone();
    session.shows(&["replace", "--force", "-f", "long.yaml"], &["job.batch/long replaced"]);
    assert_ne!(session.json(&["get", "job", "long"])["metadata"]["uid"], before, "it is another Job");
    session.says(
        &["wait", "--for=jsonpath={.status.ready}=1", "job/long", "--timeout=240s"],
        "job.batch/long condition met",
    );
    // Pods of the one that was replaced may still be ending.
    let uid = session.ok(&["get", "job", "long", "-o", "jsonpath={.metadata.uid}"]);
    deleted(&["delete", "job", "long", "--cascade=foreground"], "job.batch \"long\"");
    let of_it = format!("batch.kubernetes.io/controller-uid={uid}");
    assert_eq!(session.ok(&["get", "pods", "-o", "name", "-l", &of_it]), "", "pods go first");

    session.ok(&["delete", "-f", "pi.yaml", "--wait=false"]);
    session.ok(&["wait", "--for=delete", "job/pi", "--timeout=240s"]);
    // The Job that was made from it belongs to the CronJob.
    deleted(&["delete", "cronjob", "nightly"], "cronjob.batch \"nightly\"");
    session.ok(&["wait", "--for=delete", "job/now", "--timeout=240s"]);
    session.ok(&["delete", "job", "none", "--ignore-not-found"]);

    let shown = [
        "run",
        "shown",
        "--image=host",
        "--restart=Never",
        "--annotations=stint.dev/rootfs=host",
        "--rm",
        "-i",
        "--command",
    ];
    // What it reads has an end when somebody is attached, who then sees what it says.
    let out = session.ok(&[&shown[..], &["--", "sh", "-c", "cat; echo ran"]].concat());
    assert!(out.contains("ran\n") && out.contains("pod \"shown\" deleted"), "{}: {out}", session.client);
}

fn prunes(session: &Session) {
    let folder = session.home.path().join("set");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str| session.file(&format!("set/{name}.json"), &config_map(name)).to_owned();
    write("first");
    let second = write("second");
    let apply = ["apply", "-f", "set", "--prune", "-l", "set=x", "--prune-allowlist=core/v1/ConfigMap"];
    session.says(&apply, "configmap/first created\nconfigmap/second created");
    std::fs::remove_file(Path::new(session.home.path()).join(second)).unwrap();
    session.says(&apply, "configmap/first unchanged\nconfigmap/second pruned");
}
