//! The audit log, the limits of requests at once and the keys of tokens, as an operator sets and changes them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::{self, Who, ask, config, request, tls, unix};
use crate::support::{CONFIG_MAPS, Daemon, config_map, until};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last one may be on its way.
    let text = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// A daemon with a configuration file, which is there to be changed.
fn with_file(text: &str) -> (Daemon, std::path::PathBuf) {
    let mut daemon = Daemon::folder();
    let file = daemon.data.path().join("stint.toml");
    fs::write(&file, text).unwrap();
    daemon.start_again(&["--no-agent", "--config", file.to_str().unwrap()]);
    (daemon, file)
}

#[test]
fn the_audit_log_is_where_the_settings_say_also_after_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.log"), folder.path().join("second.log"));
    let say = |path: &Path, more: &str| format!("audit-log-path = {path:?}\n{more}");
    let (mut daemon, file) = with_file(&say(&first, ""));
    daemon.create(CONFIG_MAPS, &config_map("seen"));
    daemon.get(CONFIG_MAPS);
    let told = |path: &Path, verb: &str| {
        lines(path).iter().filter(|line| line["verb"] == verb && line["objectRef"]["resource"] == "configmaps").count()
    };
    until("both are told", || told(&first, "create") == 1 && told(&first, "list") == 1);
    let line = lines(&first).into_iter().find(|line| line["verb"] == "create").unwrap();
    assert_eq!(line["responseStatus"]["code"], 201, "{line}");
    assert!(line["user"]["username"].as_str().unwrap().starts_with("stint:uid:"), "{line}");
    assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);

    // Another file, without what only reads.
    fs::write(&file, say(&second, "audit-log-reads = false\n")).unwrap();
    daemon.signal(Signal::HUP);
    until("the other one is begun", || {
        daemon.ask("GET", "/api/v1/namespaces/default/secrets/none", "");
        !lines(&second).is_empty()
    });
    daemon.get(CONFIG_MAPS);
    daemon.ask("GET", &format!("{CONFIG_MAPS}/none"), "");
    daemon.ask("DELETE", &format!("{CONFIG_MAPS}/seen"), "");
    until("the deletion is told, and the refused read", || told(&second, "delete") == 1 && told(&second, "get") == 1);
    assert_eq!(told(&second, "list"), 0);

    // One that can't be opened leaves the other, and nothing at all ends it.
    fs::write(&file, say(Path::new("/nowhere/at/all.log"), "")).unwrap();
    daemon.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    daemon.create(CONFIG_MAPS, &config_map("after"));
    until("it is still told", || told(&second, "create") == 1);
    fs::write(&file, "").unwrap();
    daemon.signal(Signal::HUP);
    let open = format!("/proc/{}/fd", daemon.child.as_ref().unwrap().id());
    let links = || fs::read_dir(&open).unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    until("the log is let go of", || links().all(|file| file != second));
    daemon.ask("DELETE", &format!("{CONFIG_MAPS}/after"), "");
    daemon.stop();
    assert_eq!(told(&second, "delete"), 1);
}

#[test]
fn the_audit_log_is_bounded_by_size_and_number_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let size = ["--audit-log-maxsize", "1", "--audit-log-maxbackup", "1"];
    let mut daemon = Daemon::start(&[&["--no-agent", "--audit-log-path", path.to_str().unwrap()], &size[..]].concat());
    // Each line holds the path, which is as long as a head may be.
    let long = format!("{CONFIG_MAPS}?labelSelector={}", "a".repeat(30_000));
    for _ in 0..120 {
        let (code, ..) = ask(&mut unix(&daemon), &request("GET", &long, "", ""));
        assert_eq!(code, 400);
    }
    daemon.stop();
    let mut sizes: Vec<(String, u64)> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .collect();
    sizes.sort();
    let names: Vec<&str> = sizes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["audit.log", "audit.log.1"], "3.6 MB were written");
    assert!(sizes.iter().all(|(_, size)| *size <= 1 << 20), "{sizes:?}");
}

#[test]
fn too_many_requests_at_once_are_told_to_come_again_and_the_limit_can_be_raised() {
    let (mut daemon, file) = with_file("max-mutating-requests-inflight = 1\n");
    // Administrators always find a place; a ServiceAccount is as good as anybody.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "all" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": "default" }],
    });
    daemon.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &role);
    let bearer = format!("Authorization: Bearer {}\r\n", token(&daemon, 3600).0);
    let config = config(&daemon, Who::Stranger, "http/1.1");
    let create = || {
        let (body, path) = (config_map("dry").to_string(), format!("{CONFIG_MAPS}?dryRun=All"));
        ask(&mut tls(&daemon, &config), &request("POST", &path, &bearer, &body))
    };
    assert_eq!(create().0, 201);
    // One that never sends its body takes the only place.
    let take_a_place = || {
        let mut slow = tls(&daemon, &config);
        let head = request("POST", CONFIG_MAPS, &bearer, "x".repeat(10).as_str());
        slow.write_all(&head.as_bytes()[..head.len() - 10]).unwrap();
        slow.flush().unwrap();
        slow
    };
    let slow = take_a_place();
    until("there is no place", || create().0 == 429);
    let (code, head, body) = create();
    assert!(code == 429 && head.to_lowercase().contains("retry-after: 1"), "{code} {head}");
    assert!(body.contains("Too many requests, please try again later."), "{body}");
    // Reading, the administrator and health are not concerned.
    let list = |path: &str| ask(&mut tls(&daemon, &config), &request("GET", path, &bearer, "")).0;
    assert_eq!((list(CONFIG_MAPS), list("/readyz")), (200, 200));
    let admin = client::config(&daemon, Who::Admin, "http/1.1");
    let body = config_map("admin").to_string();
    assert_eq!(ask(&mut tls(&daemon, &admin), &request("POST", CONFIG_MAPS, "", &body)).0, 201);

    fs::write(&file, "max-mutating-requests-inflight = 2\n").unwrap();
    daemon.signal(Signal::HUP);
    until("there are two places", || create().0 == 201);
    fs::write(&file, "max-mutating-requests-inflight = 1\n").unwrap();
    daemon.signal(Signal::HUP);
    drop(slow); // whose body is not waited for for ever
    let slow = take_a_place();
    until("there is one place", || create().0 == 429);
    drop(slow);
    until("the place is given back", || create().0 == 201);
    daemon.stop();
}

/// A token of the account `default`, and what the client was warned of.
fn token(daemon: &Daemon, seconds: i64) -> (String, String) {
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until("the account is there", || daemon.ask("GET", account, "").0 == 200);
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": seconds },
    });
    let (code, head, body) =
        ask(&mut unix(daemon), &request("POST", &format!("{account}/token"), "", &body.to_string()));
    assert_eq!(code, 201, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let warning = head.lines().find(|line| line.to_lowercase().starts_with("warning:")).unwrap_or_default();
    (answer["status"]["token"].as_str().unwrap().to_owned(), warning.to_owned())
}

/// Who the API thinks the bearer of a token is.
fn bearer(daemon: &Daemon, token: &str) -> u16 {
    let config = config(daemon, Who::Stranger, "http/1.1");
    let header = format!("Authorization: Bearer {token}\r\n");
    ask(&mut tls(daemon, &config), &request("GET", "/api", &header, "")).0
}

fn signed_by(token: &str) -> &str {
    token.split('.').next().unwrap()
}

fn keys(daemon: &Daemon) -> usize {
    daemon.get("/openid/v1/jwks")["keys"].as_array().unwrap().len()
}

/// Sets a note of the file's first key that has it back by `seconds`, as if so much time had passed.
fn age(path: &Path, note: &str, seconds: i64) {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(note)).unwrap_or_else(|| panic!("no {note}: {text}"));
    let old: i64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    fs::write(path, text.replacen(line, &format!("{note}: {}", old - seconds), 1)).unwrap();
}

#[test]
fn keys_of_tokens_are_rotated_by_age_and_old_tokens_stay_good_while_they_last() {
    let life = ["--service-account-key-rotation", "24h", "--service-account-max-token-expiration", "2h"];
    let mut daemon = Daemon::start(&[&["--no-agent"], &life[..]].concat());
    let path = daemon.data.path().join("pki/tokens.key");
    let (old, warning) = token(&daemon, 3600);
    assert_eq!(warning, "");
    let (_, warning) = token(&daemon, 10_000);
    assert!(warning.contains("requested expiration of 10000 seconds shortened to 7200 seconds"), "{warning}");
    assert_eq!((bearer(&daemon, &old), keys(&daemon)), (200, 1));

    age(&path, "Made", 24 * 3600 + 1);
    daemon.signal(Signal::HUP);
    until("there is a new key", || keys(&daemon) == 2);
    let (new, _) = token(&daemon, 3600);
    assert_ne!(signed_by(&new), signed_by(&old), "the new key signs");
    assert_eq!((bearer(&daemon, &old), bearer(&daemon, &new)), (200, 200));
    daemon.kill();
    daemon.start_again(&[&["--no-agent"], &life[..]].concat());
    assert_eq!((bearer(&daemon, &old), bearer(&daemon, &new)), (200, 200), "also after a restart");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // When the last token of the old key is over, the key goes.
    age(&path, "Verifies-Until", 2 * 3600 + 61);
    daemon.signal(Signal::HUP);
    until("the old key is gone", || keys(&daemon) == 1);
    assert_eq!((bearer(&daemon, &old), bearer(&daemon, &new)), (401, 200));

    // An operator who fears for the keys removes them: every token ends.
    fs::remove_file(&path).unwrap();
    daemon.signal(Signal::HUP);
    until("the key is another one", || bearer(&daemon, &new) == 401);
    assert_eq!(bearer(&daemon, &token(&daemon, 3600).0), 200);

    // Keys that can't be read change nothing.
    let (last, _) = token(&daemon, 3600);
    fs::write(&path, "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n").unwrap();
    daemon.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bearer(&daemon, &last), 200);
    daemon.stop();
}
