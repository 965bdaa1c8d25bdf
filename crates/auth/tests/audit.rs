//! The audit log on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};
use stint_auth::audit::{AuditLog, Happened, Options};
use stint_auth::{Attributes, Resource, User};

fn now() -> Timestamp {
    "2026-01-02T03:04:05.678Z".parse().unwrap()
}

fn record(log: &AuditLog, id: &str) {
    let resource = Resource {
        group: "batch".into(),
        version: "v1".into(),
        resource: "jobs".into(),
        namespace: "a".into(),
        name: "pi".into(),
        ..Resource::default()
    };
    let happened = Happened {
        id,
        received: now(),
        uri: "/apis/batch/v1/namespaces/a/jobs/pi?dryRun=All",
        agent: "kubectl/v1.33",
        address: Some("10.0.0.1".parse().unwrap()),
        user: Some(&User::new("alice", ["dev"])),
        impersonated: Some(&User::new("bob", [])),
        asked: &Attributes::resource("delete", resource),
        long_running: false,
        violations: None,
    };
    log.record(&happened, 200, now());
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last one may be on its way.
    let text = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_line_tells_who_did_what_and_how_it_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let log = AuditLog::open(&Options::new(path.clone())).unwrap();
    record(&log, "x");
    drop(log);
    let expected = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "x",
        "stage": "ResponseComplete", "requestURI": "/apis/batch/v1/namespaces/a/jobs/pi?dryRun=All", "verb": "delete",
        "user": {"username": "alice", "groups": ["dev"]}, "impersonatedUser": {"username": "bob"},
        "sourceIPs": ["10.0.0.1"], "userAgent": "kubectl/v1.33",
        "objectRef": {"resource": "jobs", "namespace": "a", "name": "pi", "apiGroup": "batch", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": "2026-01-02T03:04:05.678000Z", "stageTimestamp": "2026-01-02T03:04:05.678000Z",
        "annotations": {"authorization.k8s.io/decision": "allow"},
    });
    assert_eq!(lines(&path), [expected]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn files_are_bounded_in_size_and_number_and_no_line_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let options = Options { bytes: 2000, older: 2, ..Options::new(path.clone()) };
    let log = AuditLog::open(&options).unwrap();
    for number in 0..100 {
        record(&log, &number.to_string());
    }
    drop(log);
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    let ids: Vec<Value> =
        [2, 1, 0].iter().flat_map(|at| lines(&names[*at])).map(|line| line["auditID"].clone()).collect();
    let first = 100 - ids.len();
    assert_eq!(ids, (first..100).map(|number| json!(number.to_string())).collect::<Vec<_>>());
    for name in names {
        assert!(fs::metadata(&name).unwrap().len() <= 2000, "{name:?}");
    }
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    for id in ["a", "b"] {
        record(&AuditLog::open(&Options::new(path.clone())).unwrap(), id);
    }
    assert_eq!(lines(&path).len(), 2);
}

#[test]
fn what_the_queue_cannot_take_is_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let log = AuditLog::open(&Options { queue: 1, ..Options::new(path.clone()) }).unwrap();
    let (mut count, began) = (0, std::time::Instant::now());
    // One line can't wait for a disk as fast as memory, unless this thread hardly gets to work.
    while count < 20_000 || log.dropped() == 0 && began.elapsed().as_secs() < 120 {
        record(&log, &count.to_string());
        count += 1;
    }
    let dropped = log.dropped();
    drop(log);
    assert_eq!(lines(&path).len() as u64 + dropped, count);
    assert!(dropped > 0);
}

#[test]
fn a_disk_that_is_full_loses_lines_and_nothing_else() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: there is no /dev/full");
        return;
    }
    let log = AuditLog::open(&Options::new("/dev/full".into())).unwrap();
    for number in 0..10 {
        record(&log, &number.to_string());
    }
    drop(log);
}

#[test]
fn a_file_that_was_moved_away_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("audit.log"), folder.path().join("moved"));
    let log = AuditLog::open(&Options::new(path.clone())).unwrap();
    record(&log, "a");
    while lines(&path).is_empty() {
        std::thread::yield_now();
    }
    fs::rename(&path, &moved).unwrap();
    record(&log, "b");
    drop(log);
    assert_eq!((&lines(&moved)[0]["auditID"], &lines(&path)[0]["auditID"]), (&json!("a"), &json!("b")));
}

#[test]
fn reading_can_be_left_out_but_not_what_is_refused_or_connects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let log = AuditLog::open(&Options { reads: false, ..Options::new(path.clone()) }).unwrap();
    let pods = |subresource: &str| Resource {
        version: "v1".into(),
        resource: "pods".into(),
        subresource: subresource.into(),
        ..Resource::default()
    };
    let rows = [
        ("get", "", 200, false),
        ("list", "", 200, false),
        ("watch", "", 200, false),
        ("get", "log", 200, false),
        ("get", "", 403, true),
        ("get", "exec", 101, true),
        ("create", "", 201, true),
        ("deletecollection", "", 200, true),
    ];
    for (verb, subresource, code, _) in rows {
        let happened = Happened {
            id: verb,
            received: now(),
            uri: "/",
            agent: "",
            address: None,
            user: None,
            impersonated: None,
            asked: &Attributes::resource(verb, pods(subresource)),
            long_running: false,
            violations: None,
        };
        log.record(&happened, code, now());
    }
    drop(log);
    let told: Vec<Value> = lines(&path).iter().map(|line| line["auditID"].clone()).collect();
    let expected: Vec<Value> = rows.iter().filter(|row| row.3).map(|row| json!(row.0)).collect();
    assert_eq!(told, expected);
}
