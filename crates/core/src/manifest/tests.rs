//! Manifests as people write them, and as they should not.

use std::fmt::Write as _;

use super::*;

fn one(text: &str) -> Document {
    let mut documents = parse(text, "f.yaml").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn job(text: &str) -> Job {
    match one(text) {
        Document::Job(job) => *job,
        other => panic!("{other:?}"),
    }
}

fn data(yaml: &str) -> Vec<(String, String)> {
    let text = format!("apiVersion: v1\nkind: ConfigMap\ndata:\n{yaml}");
    match one(&text) {
        Document::ConfigMap(map) => map.data.unwrap().into_iter().collect(),
        other => panic!("{other:?}"),
    }
}

fn error(text: &str) -> String {
    parse(text, "f.yaml").unwrap_err().to_string()
}

const PI: &str = "\
apiVersion: batch/v1
kind: Job
metadata:
  name: pi-calculator
spec:
  template:
    spec:
      containers:
      - name: pi
        image: perl:5.34.0
        command: [\"perl\", \"-Mbignum=bpi\", \"-wle\", \"print bpi(2000)\"]
      restartPolicy: Never
  backoffLimit: 4
";

#[test]
fn a_job_is_read_from_yaml_and_from_json() {
    let yaml = job(PI);
    assert_eq!(yaml.spec.as_ref().unwrap().backoff_limit, Some(4));
    let json = serde_json::to_string_pretty(&yaml).unwrap();
    assert_eq!(job(&json), yaml);
    assert_eq!(job(&json.replace("  ", "\t")), yaml);
    assert_eq!(job(&serde_json::to_string(&yaml).unwrap()), yaml);
}

#[test]
fn documents_and_lists_are_taken_apart() {
    let text = format!(
        "# nothing yet\n---\n{PI}---\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  stringData: {{a: b}}\n- apiVersion: v1\n  kind: Service\n  metadata: {{name: s}}\n...\n---\napiVersion: batch/v1\nkind: JobList\nitems:\n- metadata: {{name: a}}\n"
    );
    let documents = parse(&text, "f.yaml").unwrap();
    assert!(matches!(
        &documents[..],
        [Document::Job(_), Document::Secret(_), Document::Other { kind, name, .. }, Document::Job(second)]
            if kind == "Service" && name == "s" && second.metadata.name.as_deref() == Some("a")
    ));
    assert!(parse("", "f").unwrap().is_empty());
    assert!(parse("---\n---\n# only words\n", "f").unwrap().is_empty());
}

#[test]
fn yaml_is_yaml_1_1() {
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: on\n  volumes:\n  - name: v\n    secret: {defaultMode: 0400}\n  activeDeadlineSeconds: 1_000\n  priority: 0x10\n";
    let Document::Pod(pod) = one(pod) else { panic!() };
    let spec = pod.spec.unwrap();
    assert_eq!(spec.host_network, Some(true));
    assert_eq!(spec.volumes.unwrap()[0].secret.as_ref().unwrap().default_mode, Some(0o400));
    assert_eq!((spec.active_deadline_seconds, spec.priority), (Some(1000), Some(16)));
    assert!(
        error("apiVersion: v1\nkind: ConfigMap\ndata:\n  a: y\n")
            .contains("f.yaml:4: cannot unmarshal bool into Go struct field ConfigMap.data of type string")
    );
}

#[test]
fn texts_stay_texts() {
    let pairs = data(
        "  a: 'y'\n  b: \"0777\"\n  c: !!str 5\n  d: 2001-01-01\n  e: 1:30\n  f: |\n    x\n    y\n  g: >-\n    x\n    y\n  1: one\n  on: t\n  h: 1.2.3\n  j: \"\\uD83D\\uDE00\"\n",
    );
    let get = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    assert_eq!(get("a"), Some("y"));
    assert_eq!(get("b"), Some("0777"));
    assert_eq!(get("c"), Some("5"));
    assert_eq!(get("d"), Some("2001-01-01"));
    assert_eq!(get("e"), Some("1:30"));
    assert_eq!(get("f"), Some("x\ny\n"));
    assert_eq!(get("g"), Some("x y"));
    assert_eq!(get("1"), Some("one"));
    assert_eq!(get("true"), Some("t"));
    assert_eq!(get("h"), Some("1.2.3"));
    assert_eq!(get("j"), Some("😀"));
}

#[test]
fn anchors_and_merges_repeat_values() {
    let pairs = data("  <<: &b {x: '1', v: '2'}\n  v: '3'\n  z: &t text\n  w: *t\n");
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(pairs, ["v=3", "w=text", "x=1", "z=text"]);
}

#[test]
fn every_problem_is_told_with_its_line() {
    let text = PI.replace("backoffLimit", "backofLimit").replace("        image:", "        imag:");
    assert_eq!(
        error(&text),
        "f.yaml:10: unknown field \"spec.template.spec.containers[0].imag\"\nf.yaml:13: unknown field \"spec.backofLimit\""
    );
    let text = PI.replace("backoffLimit: 4", "backoffLimit: four");
    assert_eq!(
        error(&text),
        "f.yaml:13: cannot unmarshal string into Go struct field JobSpec.spec.backoffLimit of type int32"
    );
    let text = PI.replace("  name: pi-calculator", "  name: a\n  name: b");
    assert_eq!(error(&text), "f.yaml:5: duplicate field \"metadata.name\"");
}

#[test]
fn what_is_no_object_is_refused() {
    assert_eq!(error("- a\n- b\n"), "f.yaml:1: an object is wanted here, found: array");
    assert_eq!(error("hello\n"), "f.yaml:1: an object is wanted here, found: string");
    assert_eq!(error("metadata: {}\n"), "f.yaml:1: apiVersion is missing\nf.yaml:1: kind is missing");
    assert!(error("a: [1, 2\nb: 3\n").starts_with("f.yaml:"));
    assert!(error("a: *nothing\n").starts_with("f.yaml:1: "));
    assert!(error("? [a]\n: b\n").contains("a key must be a text"));
    assert!(error("a: .inf\n").contains("no place in JSON"));
    assert!(error("a: &x [*x]\n").contains("f.yaml:1: "));
}

#[test]
fn bombs_are_defused_quickly() {
    let start = std::time::Instant::now();
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..30 {
        let alias = format!("*a{}, ", i - 1).repeat(10);
        let _ = writeln!(laughs, "a{i}: &a{i} [{alias}]");
    }
    assert!(error(&laughs).contains("aliases repeat more than"));
    let mut doubling = format!("a0: &a0 {{x: \"{}\"}}\n", "y".repeat(10_000));
    for i in 1..200 {
        let _ = writeln!(doubling, "a{i}: &a{i} {{<<: *a{}, k{i}: *a{}}}", i - 1, i - 1);
    }
    assert!(error(&doubling).contains("aliases repeat more than"));
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(error(&deep).contains("f.yaml:1"));
    let nested: String = (0..5000).fold(String::new(), |text, i| text + &" ".repeat(i) + "a:\n");
    assert!(error(&nested).starts_with("f.yaml:"));
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Merging once looked through all members for each one: 300,000 of them took minutes.
#[test]
fn merging_many_members_takes_no_square_time() {
    let start = std::time::Instant::now();
    let members = (0..100_000).fold(String::new(), |mut text, i| {
        let _ = write!(text, "k{i}: v,");
        text
    });
    assert_eq!(data(&format!("  <<: {{{members}}}\n")).len(), 100_000);
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn ten_megabytes_are_read_and_more_are_refused() {
    let start = std::time::Instant::now();
    let value = "x".repeat(9_900_000);
    assert_eq!(data(&format!("  a: {value}\n"))[0].1.len(), value.len());
    let many = format!("apiVersion: v1\nkind: ConfigMap\nx: [{}]\n", "0,".repeat(4_900_000));
    assert!(error(&many).contains("the manifest has more than 1000000 values"));
    assert!(error(&"x".repeat(10_000_001)).contains("10000001 bytes, 10000000 are allowed"));
    let quotes = "\"".repeat(9_000_000);
    assert!(parse(&quotes, "f").is_err());
    assert!(start.elapsed() < std::time::Duration::from_mins(1), "{:?}", start.elapsed());
}
