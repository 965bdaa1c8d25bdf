//! Whatever a client sends, it gets an answer: soon, from a server that goes on, and never a 5xx that Kubernetes itself
//! would not give.
//!
//! Two halves: bombs, each made by hand to cost as much as possible, and requests made from good ones by a mutator whose
//! seeds are fixed, so that a failure repeats.

mod support;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde_json::{Value, json};
use stint_server::router;
use support::{api, config_map, job, pod, post};
use tower::ServiceExt;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const JOB: &str = "/apis/batch/v1/namespaces/default/jobs/j";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// How long the processor may be busy with an answer. What is guarded against takes minutes; code that is not optimized
/// needs some room.
const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 8 } else { 1 });

/// The most bytes of an answer.
const LARGE: usize = 64 << 20;

/// The 5xx that a cluster answers too, by a part of their messages.
const AS_UPSTREAM: &[&str] = &[
    // The client has seen a revision that there is not yet: 504, "try again".
    "Too large resource version",
    // The client set how long it waits, and it was not long enough.
    "request did not complete within the allotted timeout",
    // All that follows is 500 without a reason in a cluster.
    "resourceVersion should not be set on objects to be created",
    "invalid resource version",
    // What is applied breaks the schema; a cluster did not foresee that the client is at fault.
    "failed to create typed patch object",
];

struct World {
    router: Router,
}

struct Reply {
    code: u16,
    text: String,
}

impl World {
    /// A server with a Job, a pod and a ConfigMap.
    async fn new() -> World {
        let router = router(api());
        let world = World { router };
        world.fill().await;
        world
    }

    async fn fill(&self) {
        for (path, object) in [
            (JOBS, serde_json::to_value(job("j")).unwrap()),
            ("/api/v1/namespaces/default/pods", serde_json::to_value(pod("p")).unwrap()),
            (CONFIG_MAPS, serde_json::to_value(config_map("c", "v")).unwrap()),
        ] {
            let code = post(&self.router, path, &object).await.code;
            assert!(matches!(code, 201 | 409), "{path}: {code}");
        }
    }

    async fn send(&self, what: &str, method: &str, path: &str, media: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        self.request(what, request.body(Body::from(body.into())).unwrap()).await
    }

    /// Sends a request, and holds the answer to what this file is about.
    async fn request(&self, what: &str, request: Request<Body>) -> Reply {
        let began = busy();
        let answer = std::panic::AssertUnwindSafe(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let code = response.status().as_u16();
            let headers: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(headers < 32 << 10, "{what}: {headers} bytes of headers");
            let body = to_bytes(response.into_body(), LARGE);
            // A watch goes on; that it began is what there is to see.
            let body = tokio::time::timeout(Duration::from_millis(if code == 200 { 15 } else { 60_000 }), body).await;
            let body = body.map_or(Bytes::new(), |body| body.unwrap_or_else(|_| panic!("{what}: a huge answer")));
            Reply { code, text: String::from_utf8_lossy(&body).into_owned() }
        });
        let Ok(reply) = answer.catch_unwind().await else { panic!("the server panicked: {what}") };
        let took = busy().saturating_sub(began);
        assert!(took < SOON, "{what}: {took:?} until {}", reply.code);
        let known = AS_UPSTREAM.iter().any(|part| reply.text.contains(part));
        assert!(reply.code < 500 || known, "{what}: {}: {:.600}", reply.code, reply.text);
        reply
    }
}

/// How long this thread, which is also the server's, has been at work. Other programs do not count.
fn busy() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().expect("it never is negative")
}

/// A Job with this `spec.template.spec` beside its container.
fn job_with(members: &Value) -> Value {
    let mut job = serde_json::to_value(job("bomb")).unwrap();
    let spec = job.pointer_mut("/spec/template/spec").unwrap().as_object_mut().unwrap();
    spec.extend(members.as_object().unwrap().clone());
    job
}

fn nested(open: &str, middle: &str, close: &str, depth: usize) -> String {
    format!("{}{middle}{}", open.repeat(depth), close.repeat(depth))
}

#[tokio::test]
async fn bodies_made_to_cost_much_are_refused_or_taken_soon() {
    let world = World::new().await;
    let head = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bomb"},"data":"#;
    let mut unknown = format!("{head}{{}}");
    (0..150_000).for_each(|at| write!(unknown, r#","u{at}":0"#).unwrap());
    unknown.push('}');
    let mut repeated = format!("{head}{{");
    (0..250_000).for_each(|at| write!(repeated, r#"{}"k":"""#, if at > 0 { "," } else { "" }).unwrap());
    repeated.push_str("}}");
    for (what, body) in [
        ("lists in lists", nested("[", "", "]", 1_000_000)),
        ("objects in objects", nested(r#"{"a":"#, "0", "}", 400_000)),
        ("lists without an end", "[".repeat(3_000_000)),
        ("a huge number", format!("{head}{{\"a\":1{}}}}}", "0".repeat(2_000_000))),
        ("a huge exponent", format!("{head}{{\"a\":1e{}}}}}", "9".repeat(2_000_000))),
        ("a long text", format!("{head}{{\"a\":\"{}\"}}}}", "x".repeat(2_900_000))),
        ("a long text of escapes", format!("{head}{{\"a\":\"{}\"}}}}", r"\u0000".repeat(480_000))),
        ("half a surrogate", format!(r#"{head}{{"a":"\ud800"}}}}"#)),
        ("many unknown fields", unknown),
        ("one key many times", repeated),
        ("a long key", format!("{head}{{\"{}\":\"\"}}}}", "k".repeat(2_900_000))),
        ("nothing", String::new()),
        ("null", "null".to_owned()),
        ("a list", "[]".to_owned()),
    ] {
        world.send(what, "POST", CONFIG_MAPS, JSON, body.clone()).await;
        world.send(what, "POST", CONFIG_MAPS, YAML, body.clone()).await;
        world.send(what, "PUT", &format!("{CONFIG_MAPS}/c"), JSON, body.clone()).await;
        world.send(what, "DELETE", &format!("{CONFIG_MAPS}/none"), JSON, body.clone()).await;
        for media in [MERGE, STRATEGIC, JSON_PATCH, APPLY] {
            world.send(what, "PATCH", &format!("{CONFIG_MAPS}/c?fieldManager=m"), media, body.clone()).await;
        }
    }
    for body in [&b"\xff\xfe{}"[..], b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}", b"\x00", b"k8s\x00", b"k8s\x00\x0a\xff"] {
        for media in [JSON, YAML, PROTOBUF, "", "application/cbor", "a/b;;;;=\"", MERGE] {
            world.send("bytes", "POST", CONFIG_MAPS, media, body).await;
            world.send("bytes", "PATCH", JOB, media, body).await;
        }
    }
    let too_large = world.send("4 MiB", "POST", CONFIG_MAPS, JSON, vec![b' '; 4 << 20]).await;
    assert_eq!(too_large.code, 413);
}

#[tokio::test]
async fn yaml_made_to_grow_is_refused_soon() {
    let world = World::new().await;
    let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    (1..12).for_each(|at| writeln!(laughs, "a{at}: &a{at} [{}]", vec![format!("*a{}", at - 1); 10].join(",")).unwrap());
    let mut merges = "m0: &m0 {k: v}\n".to_owned();
    (1..30).for_each(|at| {
        let last = at - 1;
        writeln!(merges, "m{at}: &m{at}\n  <<: [*m{last}, *m{last}]\n  k{at}: v").unwrap();
    });
    for (what, body) in [
        ("a billion laughs", laughs),
        ("merged maps", merges),
        ("an alias of itself", "a: &a [*a]".to_owned()),
        ("lists in a line", "- ".repeat(700_000)),
        ("keys in a line", "? ".repeat(700_000)),
        ("flow lists", "[".repeat(1_400_000)),
        ("flow maps", "{a: ".repeat(350_000)),
        ("open quotes", format!("a: \"{}", "\\n".repeat(700_000))),
        ("anchors", "&a ".repeat(450_000)),
        ("many anchors", (0..100_000).fold(String::new(), |text, at| text + &format!("- &a{at} x\n"))),
        ("tags", "!!str ".repeat(200_000)),
        ("directives", "%YAML 1.1\n".repeat(100_000)),
        ("documents", "---\n".repeat(300_000)),
        ("comments", "# x\n".repeat(400_000)),
        ("deeper and deeper", (0..1_500).fold(String::new(), |text, at| text + &" ".repeat(at) + "a:\n")),
        ("spaces", " ".repeat(1_400_000)),
        ("colons", "a:".repeat(700_000)),
        ("a flow of keys", format!("{{{}}}", "a,".repeat(600_000))),
        ("a flow of words", format!("[{}", "a b ".repeat(350_000))),
        ("a block text", format!("a: |\n{}", "\n".repeat(1_300_000))),
        ("an octal number", format!("a: 0{}", "7".repeat(1_300_000))),
        ("underscores", format!("a: 1{}", "_".repeat(1_300_000))),
    ] {
        world.send(what, "POST", CONFIG_MAPS, YAML, body.clone()).await;
        world.send(what, "PATCH", &format!("{CONFIG_MAPS}/c?fieldManager=m"), APPLY, body).await;
    }
}

#[tokio::test]
async fn long_lists_in_objects_are_judged_soon() {
    let world = World::new().await;
    let numbered = |count: usize, item: &dyn Fn(usize) -> Value| (0..count).map(item).collect::<Value>();
    let container = |at: usize| json!({"name": format!("c{at}"), "image": "i"});
    for (what, members) in [
        ("containers", json!({"containers": numbered(1_000, &container)})),
        ("the same container", json!({"containers": numbered(2_000, &|_| container(0))})),
        ("empty containers", json!({"containers": numbered(2_000, &|_| json!({}))})),
        ("volumes", json!({"volumes": numbered(1_000, &|at| json!({"name": format!("v{at}"), "emptyDir": {}}))})),
        (
            "tolerations",
            json!({"tolerations": numbered(2_000, &|at| json!({"key": format!("k{at}"), "operator": "x"}))}),
        ),
        ("aliases", json!({"hostAliases": numbered(2_000, &|_| json!({"ip": "x", "hostnames": ["_"]}))})),
        (
            "variables",
            json!({"containers": [{"name": "c", "image": "i",
            "env": numbered(3_000, &|at| json!({"name": format!("v{at}"), "value": "$(v0)"}))}]}),
        ),
        (
            "ports",
            json!({"containers": [{"name": "c", "image": "i",
            "ports": numbered(2_000, &|at| json!({"containerPort": at + 1, "hostPort": at + 1}))}]}),
        ),
        (
            "mounts",
            json!({"containers": [{"name": "c", "image": "i",
            "volumeMounts": numbered(1_000, &|at| json!({"name": "no", "mountPath": format!("/{at}")}))}]}),
        ),
        (
            "constraints",
            json!({"topologySpreadConstraints": numbered(1_000, &|at|
            json!({"topologyKey": format!("k{at}"), "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}))}),
        ),
    ] {
        let mut object = job_with(&members);
        world.send(what, "POST", JOBS, JSON, object.to_string()).await;
        object["metadata"]["name"] = "j".into();
        world.send(what, "PATCH", &format!("{JOB}?fieldManager=m&force=true"), APPLY, object.to_string()).await;
        world.send(what, "PATCH", JOB, STRATEGIC, object.to_string()).await;
    }
    let labels: Value =
        (0..10_000).map(|at| (format!("l{at}"), Value::from("v"))).collect::<serde_json::Map<_, _>>().into();
    for metadata in [
        json!({"name": "bomb", "labels": labels}),
        json!({"name": "bomb", "annotations": labels}),
        json!({"name": "bomb", "finalizers": numbered(6_000, &|at| format!("a.b/f{at}").into())}),
        json!({"name": "bomb", "ownerReferences": numbered(1_000, &|at|
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": format!("u{at}"), "controller": true}))}),
        json!({"name": "bomb", "managedFields": numbered(1_000, &|at|
            json!({"manager": format!("m{at}"), "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "time": "2026-01-02T03:04:05Z", "fieldsV1": {"f:data": {"f:k": {}}}}))}),
        json!({"name": "bomb", "managedFields": [{"manager": "m", "operation": "Apply", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"k:{": {}, "v:": {}, "i:99999999999999999999": {}, "": {}, "f": 1}}]}),
        json!({"generateName": "ä".repeat(200)}),
        json!({"generateName": "x".repeat(2_000_000)}),
        json!({"name": "bomb", "creationTimestamp": "9999-12-31T23:59:60Z", "deletionGracePeriodSeconds": i64::MAX}),
    ] {
        let what = metadata.to_string();
        let what = what.chars().take(60).collect::<String>();
        let what = what.as_str();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        world.send(what, "POST", CONFIG_MAPS, JSON, object.to_string()).await;
        let path = format!("{CONFIG_MAPS}/bomb?fieldManager=m&force=true");
        for media in [APPLY, MERGE, STRATEGIC] {
            world.send(what, "PATCH", &path, media, object.to_string()).await;
        }
        world.send(what, "DELETE", &path, JSON, "").await;
    }
}

/// A strategic merge and an apply both look for each item of a list in another list.
#[tokio::test]
async fn lists_are_merged_in_time_that_grows_with_their_length() {
    let world = World::new().await;
    let variables = |from: usize, count: usize| {
        (from..from + count).map(|at| json!({"name": format!("v{at}"), "value": "x"})).collect::<Value>()
    };
    let with = |env: Value| job_with(&json!({"containers": [{"name": "c", "image": "i", "env": env}]}));
    let mut object = with(variables(0, 3_000));
    object["metadata"]["name"] = "big".into();
    object["spec"]["suspend"] = true.into();
    assert_eq!(world.send("a big Job", "POST", JOBS, JSON, object.to_string()).await.code, 201);
    let path = &format!("{JOBS}/big?fieldManager=m&force=true");
    for (what, env) in [("others", variables(3_000, 4_000)), ("the same", variables(0, 3_000))] {
        let mut patch = with(env);
        patch["metadata"]["name"] = "big".into();
        world.send(what, "PATCH", path, APPLY, patch.to_string()).await;
        world.send(what, "PATCH", &path[..path.len() - 11], STRATEGIC, patch.to_string()).await;
    }
    let finalizers = |from: usize| (from..from + 20_000).map(|at| Value::from(format!("a.b/f{at}"))).collect::<Value>();
    for from in [0, 10_000] {
        let patch = json!({"metadata": {"finalizers": finalizers(from)}}).to_string();
        world.send("finalizers", "PATCH", &format!("{CONFIG_MAPS}/c"), STRATEGIC, patch).await;
        let order = json!({"metadata": {"$setElementOrder/finalizers": finalizers(0), "finalizers": finalizers(0)}});
        world.send("in order", "PATCH", &format!("{CONFIG_MAPS}/c"), STRATEGIC, order.to_string()).await;
        let delete = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": finalizers(from)}});
        world.send("taken out", "PATCH", &format!("{CONFIG_MAPS}/c"), STRATEGIC, delete.to_string()).await;
        let apply =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": finalizers(from)}});
        let path = format!("{CONFIG_MAPS}/c?fieldManager=m&force=true");
        world.send("applied", "PATCH", &path, APPLY, apply.to_string()).await;
    }
}

/// Each `copy` of a place into itself doubles the depth, until nothing that calls itself can take the document apart: the
/// process ended by an overflow of its stack.
#[tokio::test]
async fn json_patches_can_not_nest_without_end() {
    let world = World::new().await;
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": {}})];
    let mut place = "/x".to_owned();
    while place.len() < 400_000 {
        operations.push(json!({"op": "copy", "from": "/x", "path": format!("{place}/x")}));
        place = place.repeat(2);
    }
    let reply = world.send("copies", "PATCH", JOB, JSON_PATCH, Value::from(operations).to_string()).await;
    assert_eq!(reply.code, 422, "{}", reply.text);
    // Moving one chain to the end of another needs no copy.
    let mut operations = Vec::new();
    for at in 0..2_000 {
        let below = "/x".repeat(1 + at % 300);
        operations.push(json!({"op": "add", "path": format!("/y{}", at % 2), "value": {"x": {"x": {}}}}));
        operations.push(json!({"op": "move", "from": format!("/y{}", at % 2), "path": below}));
        operations.push(json!({"op": "add", "path": "/z", "value": {}}));
        operations.push(json!({"op": "move", "from": "/x", "path": "/z/x"}));
        operations.push(json!({"op": "move", "from": "/z", "path": "/x"}));
    }
    world.send("moves", "PATCH", JOB, JSON_PATCH, Value::from(operations).to_string()).await;
}

#[tokio::test]
async fn json_patches_of_many_operations_end_soon() {
    let world = World::new().await;
    let many = |operation: Value| Value::from(vec![operation; 10_000]).to_string();
    let texts: Value = vec![""; 500_000].into();
    let mut first = vec![json!({"op": "add", "path": "/x", "value": texts})];
    first.extend(vec![json!({"op": "add", "path": "/x/0", "value": ""}); 9_999]);
    let mut last = vec![json!({"op": "add", "path": "/x", "value": vec![0; 500_000]})];
    last.extend(vec![json!({"op": "remove", "path": "/x/0"}); 9_999]);
    let mut tests = vec![json!({"op": "add", "path": "/x", "value": vec![0; 500_000]})];
    tests.push(json!({"op": "copy", "from": "/x", "path": "/y"}));
    tests.extend(vec![json!({"op": "test", "path": "/x", "value": []}); 9_998]);
    let mut moves = vec![json!({"op": "add", "path": "/x", "value": vec![0; 500_000]})];
    moves.extend(vec![json!({"op": "move", "from": "/x/0", "path": "/x/1"}); 9_999]);
    for (what, body) in [
        ("at the front", Value::from(first).to_string()),
        ("from the front", Value::from(last).to_string()),
        ("to and fro", Value::from(moves).to_string()),
        ("tests", Value::from(tests).to_string()),
        ("copies of everything", many(json!({"op": "copy", "from": "", "path": "/metadata/x"}))),
        ("copies into copies", many(json!({"op": "copy", "from": "/metadata", "path": "/metadata/x"}))),
        ("everything away", many(json!({"op": "remove", "path": ""}))),
        ("everything else", many(json!({"op": "replace", "path": "", "value": null}))),
        ("into itself", many(json!({"op": "move", "from": "/spec", "path": "/spec/x"}))),
        ("behind the end", many(json!({"op": "add", "path": "/spec/template/spec/containers/99", "value": 1}))),
        ("odd pointers", many(json!({"op": "add", "path": "/~2/~/01/-", "value": 1}))),
        ("what is none", many(json!({"op": "x", "path": "/"}))),
    ] {
        let reply = world.send(what, "PATCH", JOB, JSON_PATCH, body).await;
        assert!(reply.code >= 400, "{what}: {}", reply.code);
    }
    let more = Value::from(vec![json!({"op": "test", "path": "/kind", "value": "Job"}); 10_001]).to_string();
    assert_eq!(world.send("10,001 operations", "PATCH", JOB, JSON_PATCH, more).await.code, 413);
}

/// 200,000 warnings were 200,000 headers, more than an answer can have. Upstream cuts them off at 4 KiB.
#[tokio::test]
async fn warnings_fit_into_the_headers_of_an_answer() {
    let world = World::new().await;
    let mut body = r#"{"metadata":{"name":"warned"}"#.to_owned();
    (0..200_000).for_each(|at| write!(body, r#","u{at}":0"#).unwrap());
    body.push('}');
    assert_eq!(world.send("warnings", "POST", CONFIG_MAPS, JSON, body.clone()).await.code, 201);
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let refused = world.send("strict", "POST", &strict, JSON, body).await;
    assert_eq!(refused.code, 400);
    assert!(refused.text.len() < 64 << 10, "{} bytes", refused.text.len());
}

#[tokio::test]
async fn queries_at_the_ends_of_what_numbers_hold_are_answered() {
    let world = World::new().await;
    let numbers =
        ["0", "-1", "9223372036854775807", "-9223372036854775808", "18446744073709551615", "1e9", "", "x", "%00"];
    let names = [
        "timeoutSeconds",
        "limit",
        "resourceVersion",
        "gracePeriodSeconds",
        "timeout",
        "continue",
        "pretty",
        "sendInitialEvents",
        "allowWatchBookmarks",
        "resourceVersionMatch",
        "dryRun",
        "fieldValidation",
        "fieldManager",
        "propagationPolicy",
        "orphanDependents",
        "force",
        "labelSelector",
        "fieldSelector",
        "watch",
        "includeObject",
    ];
    for number in numbers {
        for name in names {
            let what = format!("{name}={number}");
            for (method, path) in [
                ("GET", format!("{JOBS}?{what}")),
                ("GET", format!("{JOBS}?watch=1&{what}")),
                ("GET", format!("{JOBS}?watch=1&allowWatchBookmarks=1&{what}")),
                ("GET", format!("{JOBS}?limit=1&{what}")),
                ("GET", format!("{JOB}?{what}")),
                ("DELETE", format!("{JOB}?dryRun=All&{what}")),
                ("DELETE", format!("{JOB}?{what}")),
            ] {
                world.send(&format!("{method} {path}"), method, &path, JSON, "").await;
            }
        }
        world.fill().await;
    }
    let long = "a".repeat(60_000);
    let terms = vec!["a=b"; 15_000].join(",");
    for query in [
        format!("continue={long}"),
        format!("limit=1&continue={}", "A".repeat(60_000)),
        "limit=1&continue=%2F%2F".to_owned(),
        "limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiLi4vLi4vIn0".to_owned(),
        format!("labelSelector={long}"),
        format!("labelSelector={terms}"),
        format!("labelSelector=a+in+({})", vec!["b"; 25_000].join(",")),
        format!("labelSelector={}", "(".repeat(60_000)),
        format!("labelSelector={}", "!".repeat(60_000)),
        format!("fieldSelector={}", vec!["metadata.name=b"; 3_500].join(",")),
        format!("fieldSelector={}", vec!["status.successful=0"; 3_000].join(",")),
        format!("resourceVersion={}", "9".repeat(60_000)),
        format!("timeout={}s", "9".repeat(60_000)),
        format!("x{}", "&x".repeat(30_000)),
        "labelSelector=%FF%FE".to_owned(),
        "%".repeat(20_000),
    ] {
        let what = &query[..query.len().min(60)];
        world.send(what, "GET", &format!("{JOBS}?{query}"), JSON, "").await;
        world.send(what, "GET", &format!("{JOBS}?watch=1&{query}"), JSON, "").await;
        world.send(what, "DELETE", &format!("/api/v1/namespaces/none/pods?{query}"), JSON, "").await;
    }
}

/// `Accept` is sorted as Go sorts it, which took the square of its clauses.
#[tokio::test]
async fn headers_made_to_cost_much_are_read_soon() {
    let world = World::new().await;
    let rising: Vec<String> = (0..30_000).map(|at| format!("a/b;q=0.{at:05}")).collect();
    for (name, value) in [
        ("accept", rising.join(",")),
        ("accept", format!("{}{}", "*/*,".repeat(50_000), "a/b,".repeat(50_000))),
        ("accept", ",".repeat(400_000)),
        ("accept", "application/json;".repeat(20_000)),
        ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,".repeat(8_000)),
        ("accept", format!("application/json;{}", "as=x;".repeat(60_000))),
        ("accept-encoding", "gzip,".repeat(80_000)),
        ("content-type", ";".repeat(400_000)),
        ("user-agent", "x/".repeat(200_000)),
        ("audit-id", "x".repeat(20_000)),
        ("content-length", "99999999999999999999".to_owned()),
        ("content-length", "-1".to_owned()),
        ("if-none-match", "\"x\",".repeat(80_000)),
        ("connection", "upgrade".to_owned()),
    ] {
        let what = format!("{name}: {value:.40}");
        for (method, path) in
            [(Method::GET, JOBS), (Method::PATCH, JOB), (Method::GET, "/openapi/v2"), (Method::GET, "/apis")]
        {
            let request = Request::builder().method(method).uri(path).header(name, &value).body(Body::empty()).unwrap();
            world.request(&what, request).await;
        }
    }
}

/// A list of repeated numbers, so that a failure repeats (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// Values that somebody forgot.
fn odd(dice: &mut Dice) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(0.5),
        json!(2_147_483_648_u64),
        json!(""),
        json!("\u{0}"),
        json!("ä€😀"),
        json!("../.."),
        json!("-"),
        json!("0"),
        json!("1e999999999"),
        json!("9999999999999999999999999Ei"),
        json!("-1n"),
        json!("0001-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:59Z"),
        json!("-0001-01-01T00:00:00Z"),
        json!("2026-02-30T00:00:00Z"),
        json!("H * * * *"),
        json!("@every 1ns"),
        json!("59 23 31 2 *"),
        json!("TZ=x * * * * *"),
        json!("0-4294967295"),
        json!("1,2,,"),
        json!([]),
        json!({}),
        json!([null]),
        json!([[]]),
        json!({"": ""}),
        json!({"$patch": "delete"}),
        json!({"$patch": "replace"}),
        json!({"$patch": 1}),
        json!([{"$patch": "merge"}]),
        json!({"$retainKeys": ["x"]}),
        json!({"$setElementOrder/containers": [{"name": "c"}]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["x"]}),
        json!({"matchExpressions": [{"key": "", "operator": "In"}]}),
        json!({"exec": {}, "httpGet": {}}),
        json!({"f:spec": {"k:{\"name\":1}": {}, ".": {}}}),
    ];
    dice.one(&all)
}

/// Puts something odd somewhere into `value`.
fn twist(value: &mut Value, dice: &mut Dice) {
    let deeper = dice.below(8) > 0;
    match value {
        Value::Object(members) if deeper && !members.is_empty() => {
            let keys: Vec<String> = members.keys().cloned().collect();
            let key = dice.one(&keys);
            match dice.below(12) {
                0 => drop(members.remove(&key)),
                1 => drop(
                    members
                        .insert(dice.one(&["name", "$patch", "", "labels", "spec", "metadata", "x"]).into(), odd(dice)),
                ),
                _ => twist(&mut members[&key], dice),
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = dice.below(items.len());
            match dice.below(10) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => twist(&mut items[at], dice),
            }
        }
        other => *other = odd(dice),
    }
}

/// Changes bytes, cuts and repeats.
fn scramble(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << dice.below(8),
            2 => drop(bytes.remove(at)),
            3 => {
                let token = dice.one(&[
                    &b"{"[..],
                    b"}",
                    b"[",
                    b"]",
                    b",",
                    b":",
                    b"\"",
                    b"\\u0000",
                    b"\xff",
                    b"\n",
                    b"&a ",
                    b"*a",
                    b"<<: ",
                ]);
                drop(bytes.splice(at..at, token.iter().copied()));
            }
            4 => {
                let end = (at + dice.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            _ => bytes[at] = dice.roll().to_le_bytes()[0],
        }
    }
}

fn cron_job() -> Value {
    let job = serde_json::to_value(job("x")).unwrap();
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cj"},
        "spec": {"schedule": "*/5 * * * *", "timeZone": "Etc/UTC", "startingDeadlineSeconds": 5, "jobTemplate": {"spec": job["spec"]}}})
}

/// A Job with something in many of its fields.
fn rich_job() -> Value {
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

#[tokio::test]
async fn good_requests_gone_bad_are_answered() {
    let world = World::new().await;
    let until = Instant::now() + Duration::from_secs(8);
    let seeds = [
        rich_job(),
        cron_job(),
        serde_json::to_value(pod("p")).unwrap(),
        serde_json::to_value(config_map("c", "v")).unwrap(),
    ];
    let collections =
        [JOBS, "/apis/batch/v1/namespaces/default/cronjobs", "/api/v1/namespaces/default/pods", CONFIG_MAPS];
    let names = ["j", "cj", "p", "c"];
    for seed in 0..6_000_u64 {
        if Instant::now() > until {
            break;
        }
        let dice = &mut Dice(seed);
        let which = dice.below(seeds.len());
        let mut object = seeds[which].clone();
        for _ in 0..=dice.below(3) {
            twist(&mut object, dice);
        }
        let (method, media) = dice.one(&[
            ("POST", JSON),
            ("POST", YAML),
            ("PUT", JSON),
            ("PATCH", MERGE),
            ("PATCH", STRATEGIC),
            ("PATCH", APPLY),
            ("PATCH", JSON_PATCH),
            ("POST", PROTOBUF),
            ("DELETE", JSON),
        ]);
        let mut body = match media {
            JSON_PATCH => {
                let pointers = [
                    "/spec",
                    "/spec/template/spec/containers/0",
                    "/metadata/labels/a",
                    "",
                    "/metadata/finalizers/-",
                    "/x~1y",
                    "/spec/parallelism",
                    "/metadata",
                ];
                let count = 1 + dice.below(4);
                let operations = (0..count).map(|_| {
                    let op = dice.one(&["add", "remove", "replace", "move", "copy", "test"]);
                    json!({"op": op, "path": dice.one(&pointers), "from": dice.one(&pointers), "value": odd(dice)})
                });
                operations.collect::<Value>().to_string().into_bytes()
            }
            YAML if dice.below(2) == 0 => stint_core::manifest::to_yaml(&object).into_bytes(),
            PROTOBUF => stint_schema::protobuf::encode_object(&object).unwrap_or_default(),
            _ => object.to_string().into_bytes(),
        };
        if dice.below(4) == 0 || (media == PROTOBUF && dice.below(2) == 0) {
            scramble(&mut body, dice);
        }
        let query = dice.one(&[
            "",
            "?fieldManager=m&force=true",
            "?fieldManager=m",
            "?dryRun=All&fieldManager=m",
            "?fieldValidation=Strict&fieldManager=m",
        ]);
        let collection = collections[which];
        let status = if dice.below(5) == 0 && method != "DELETE" { "/status" } else { "" };
        let path = if method == "POST" {
            format!("{collection}{query}")
        } else {
            format!("{collection}/{}{status}{query}", names[which])
        };
        let what = format!("seed {seed}: {method} {path} {media}: {:.2000}", String::from_utf8_lossy(&body));
        world.send(&what, method, &path, media, body).await;
        if seed % 4 == 0 {
            let accept = dice.one(&[
                "application/json;as=Table;v=v1;g=meta.k8s.io",
                YAML,
                PROTOBUF,
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            ]);
            let request = Request::builder().uri(collection).header("accept", accept).body(Body::empty()).unwrap();
            let reply = world.request(&format!("{what}\nthen a list as {accept}"), request).await;
            assert_eq!(reply.code, 200, "{what}\nthen a list as {accept}: {}", reply.text);
            // What is stored must be good to read again, and go when it is told to.
            world.fill().await;
        }
    }
}

#[tokio::test]
async fn any_path_query_and_header_is_answered() {
    let world = World::new().await;
    let until = Instant::now() + Duration::from_secs(4);
    let segments = [
        "api",
        "apis",
        "v1",
        "batch",
        "namespaces",
        "default",
        "pods",
        "p",
        "jobs",
        "j",
        "configmaps",
        "status",
        "log",
        "exec",
        "attach",
        "portforward",
        "binding",
        "eviction",
        "scale",
        "openapi",
        "v2",
        "v3",
        "healthz",
        "readyz",
        "metrics",
        "version",
        "..",
        ".",
        "",
        "%2e%2e",
        "%00",
        "%ff",
        "%2F",
        "apiregistration.k8s.io",
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "serviceaccounts",
        "token",
        "nodes",
        "events",
        "proxy",
        "watch",
        "finalize",
        "%E2%82%AC",
        "a b",
    ];
    let params = [
        "watch=1",
        "labelSelector=a%3Db",
        "fieldSelector=metadata.name%3Dj",
        "limit=1",
        "continue=x",
        "resourceVersion=1",
        "container=c",
        "command=x",
        "stdout=1",
        "ports=80",
        "follow=1",
        "tailLines=-1",
        "sinceSeconds=9223372036854775807",
        "limitBytes=0",
        "sinceTime=x",
        "timestamps=1",
        "previous=1",
        "timeoutSeconds=1",
        "dryRun=All",
        "pretty=1",
        "timeout=1s",
        "%",
        "=",
        "&&",
        "labelSelector=a+in+(b",
        "labelSelector=!",
        "fieldSelector=%3D",
        "resourceVersionMatch=Exact",
        "verbose",
        "exclude=x",
    ];
    let headers = [
        ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("accept", "application/vnd.kubernetes.protobuf"),
        ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
        ("accept", "\u{e4}"),
        ("accept", ";;q=x"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("upgrade", "SPDY/3.1"),
        ("sec-websocket-key", "x"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ("authorization", "Bearer x.y.z"),
        ("impersonate-user", "x"),
        ("content-type", "\u{e4}"),
        ("content-length", "9"),
        ("accept-encoding", "gzip"),
        ("transfer-encoding", "chunked"),
        ("if-none-match", "*"),
    ];
    for seed in 0..20_000_u64 {
        if Instant::now() > until {
            break;
        }
        let dice = &mut Dice(seed);
        let good = ["/api/v1/namespaces/default/pods/p", "/apis/batch/v1/namespaces/default/jobs", "/openapi/v3", ""];
        let mut path = dice.one(&good).to_owned();
        for _ in 0..dice.below(6) {
            path = path + "/" + dice.one(&segments);
        }
        for at in 0..dice.below(4) {
            path = path + if at == 0 { "?" } else { "&" } + dice.one(&params);
        }
        let Ok(uri) = Uri::try_from(if path.is_empty() { "/" } else { &path }) else { continue };
        let method = dice.one(&["GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "X"]);
        let mut request = Request::builder().method(method).uri(uri);
        let mut what = format!("seed {seed}: {method} {path}");
        for _ in 0..dice.below(4) {
            let (name, value) = dice.one(&headers);
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
            write!(what, " {name}: {value:?}").unwrap();
            request = request.header(HeaderName::from_static(name), value);
        }
        world.request(&what, request.body(Body::from("{}")).unwrap()).await;
    }
}
