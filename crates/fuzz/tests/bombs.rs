//! Bombs: requests made by hand to cost as much as possible. Each gets an answer, soon, from a server that goes on.

use std::fmt::Write as _;

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use stint_fuzz::world::media::{APPLY, JSON, JSON_PATCH, MERGE, PROTOBUF, STRATEGIC, YAML};
use stint_fuzz::world::{CONFIG_MAPS, JOB, JOBS, World, job_with};

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
        // Some are waited for, as a cluster does: 3 s until a revision that there is not yet.
        let of = names.map(async |name| {
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
        });
        futures::future::join_all(of).await;
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
