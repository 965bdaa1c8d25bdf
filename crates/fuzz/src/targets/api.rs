//! What asks a server: bodies, patches, selectors, tokens of pages, and whole requests.

use std::fmt::Write as _;

use axum::body::Body;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Request, Uri};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};
use stint_core::manifest::to_yaml;
use stint_schema::protobuf;

use crate::dice::Dice;
use crate::mutate::{odd, scramble, twist};
use crate::seeds::{config_map, cron_job, pod, rich_job};
use crate::world::media::{APPLY, JSON, JSON_PATCH, MERGE, PROTOBUF, STRATEGIC, YAML};
use crate::world::{CONFIG_MAPS, CRON_JOBS, JOBS, PODS, World, block_on, with_shared};

/// Collections, and the name of the object that is in each.
const PLACES: [(&str, &str); 4] = [(JOBS, "j"), (CRON_JOBS, "cj"), (PODS, "p"), (CONFIG_MAPS, "c")];

/// A good object for each place.
fn objects() -> [Value; 4] {
    [rich_job(), cron_job(), pod("p"), config_map("c")]
}

/// The first byte chooses, the others are sent.
fn split(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (first, rest) = bytes.split_first()?;
    Some((usize::from(*first), rest.to_vec()))
}

fn chosen(choice: usize, rest: impl AsRef<[u8]>) -> Vec<u8> {
    [&[u8::try_from(choice).expect("there are fewer choices")], rest.as_ref()].concat()
}

/// An object is created, or it is told why not.
pub(super) fn create(bytes: &[u8]) {
    let Some((choice, body)) = split(bytes) else { return };
    let (path, _) = PLACES[choice % 4];
    let media = [JSON, YAML, PROTOBUF][choice / 4 % 3];
    let validation = ["", "&fieldValidation=Strict", "&fieldValidation=Ignore"][choice / 12 % 3];
    with_shared(async |world| {
        world.send(media, "POST", &format!("{path}?dryRun=All{validation}"), media, body).await;
    });
}

pub(super) fn bodies() -> Vec<Vec<u8>> {
    let each = |(place, object): (usize, Value)| {
        let message = protobuf::encode_object(&object).unwrap_or_default();
        [object.to_string().into_bytes(), to_yaml(&object).into_bytes(), message]
            .into_iter()
            .enumerate()
            .map(|(media, body)| chosen(place + 4 * media, body))
            .collect::<Vec<_>>()
    };
    objects().into_iter().enumerate().flat_map(each).collect()
}

/// An object is patched, or it is told why not.
pub(super) fn patch(bytes: &[u8]) {
    let Some((choice, body)) = split(bytes) else { return };
    let (path, name) = PLACES[choice % 4];
    let media = [JSON_PATCH, MERGE, STRATEGIC, APPLY][choice / 4 % 4];
    let more = ["", "&force=true"][usize::from(media == APPLY && choice / 16 % 2 == 1)];
    let part = ["", "/status"][usize::from(choice / 32 % 4 == 1)];
    with_shared(async |world| {
        let path = format!("{path}/{name}{part}?dryRun=All&fieldManager=fuzz{more}");
        world.send(media, "PATCH", &path, media, body).await;
    });
}

pub(super) fn patches() -> Vec<Vec<u8>> {
    let operations = json!([
        {"op": "test", "path": "/metadata/name", "value": "j"},
        {"op": "add", "path": "/metadata/labels", "value": {"a~b/c": "d"}},
        {"op": "replace", "path": "/metadata/labels/a~0b~1c", "value": "e"},
        {"op": "copy", "from": "/metadata/labels", "path": "/metadata/annotations"},
        {"op": "move", "from": "/metadata/annotations/a~0b~1c", "path": "/metadata/labels/f"},
        {"op": "remove", "path": "/metadata/labels/f"},
    ]);
    let directives = json!({"spec": {"parallelism": null, "template": {"spec": {
        "$setElementOrder/containers": [{"name": "d"}, {"name": "c"}],
        "containers": [{"name": "c", "$patch": "delete"}, {"name": "d", "image": "i", "ports": [{"containerPort": 1}]}],
        "$retainKeys": ["containers", "restartPolicy"], "restartPolicy": "Never",
        "tolerations": [{"$patch": "replace"}]}}},
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["a.b/c"]}});
    let mut all = vec![chosen(0, operations.to_string()), chosen(8, directives.to_string())];
    for (place, object) in objects().into_iter().enumerate() {
        for media in 1..4 {
            all.push(chosen(place + 4 * media, object.to_string()));
        }
        all.push(chosen(place + 12 + 16, to_yaml(&object)));
    }
    all
}

/// A list is selected from, or it is told why not.
pub(super) fn selector(bytes: &[u8]) {
    let Some((choice, text)) = split(bytes) else { return };
    let name = ["labelSelector", "fieldSelector"][choice % 2];
    let (path, _) = PLACES[choice / 2 % 4];
    let watch = ["", "&watch=true&timeoutSeconds=1"][usize::from(choice / 8 % 8 == 1)];
    let text = percent_encode(&text, NON_ALPHANUMERIC);
    ask(&format!("{path}?{name}={text}{watch}"));
}

/// Longer paths than HTTP takes are not asked for.
fn ask(path: &str) {
    let Ok(uri) = Uri::try_from(path) else { return };
    with_shared(async |world| {
        let request = Request::builder().uri(uri).body(Body::empty()).expect("it has a method and a path");
        world.request(path, request).await;
    });
}

pub(super) fn selectors() -> Vec<Vec<u8>> {
    let labels = ["app=j", "a in (b, c),!d,e!=f", "example.com/a notin (,),g", "h==i,j>1,k<2", "exists"];
    let fields = ["metadata.name=j", "metadata.namespace!=default,metadata.name==c", "status.phase=Running", "a=b\\,c"];
    let labels = labels.iter().map(|text| chosen(0, text));
    labels.chain(fields.iter().map(|text| chosen(1, text))).collect()
}

/// The next page comes, or it is told why not.
pub(super) fn continue_token(bytes: &[u8]) {
    let Some((choice, text)) = split(bytes) else { return };
    let (path, _) = PLACES[choice % 4];
    let token = match choice / 4 % 2 {
        0 => percent_encode(&text, NON_ALPHANUMERIC).to_string(),
        _ => BASE64_URL_SAFE_NO_PAD.encode(&text),
    };
    let limit = ["&limit=1", ""][choice / 8 % 2];
    ask(&format!("{path}?continue={token}{limit}"));
}

pub(super) fn tokens() -> Vec<Vec<u8>> {
    let inside = ["j\u{0}", "../../", "", "default/j", "\u{7f}"];
    let inside = inside.iter().flat_map(|start| [-1_i64, 0, 5, i64::MAX].map(|revision| (start, revision)));
    inside
        .map(|(start, revision)| chosen(4, json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string()))
        .collect()
}

/// Some requests one after the other, good ones gone bad, and the lists that come of them.
pub(super) fn requests(bytes: &[u8]) {
    let dice = &mut Dice::of(bytes);
    block_on(async {
        let world = World::new().await;
        let mut what = String::new();
        for _ in 0..=dice.below(16) {
            request(&world, dice, &mut what).await;
        }
        for (path, _) in PLACES {
            let accept = dice.one(&[
                "application/json;as=Table;v=v1;g=meta.k8s.io",
                YAML,
                PROTOBUF,
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            ]);
            let request = Request::builder().uri(path).header("accept", accept).body(Body::empty());
            let reply = world.request(&what, request.expect("it is a good request")).await;
            // What is stored must be good to read again.
            assert_eq!(reply.code, 200, "{what}\nthen a list as {accept}: {}", reply.text);
        }
        // And it goes when it is told to.
        world.fill().await;
    });
}

/// One request; `what` tells of all up to it.
async fn request(world: &World, dice: &mut Dice<'_>, what: &mut String) {
    let which = dice.below(4);
    let mut object = objects()[which].clone();
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
        JSON_PATCH => operations(dice).to_string().into_bytes(),
        YAML if dice.below(2) == 0 => to_yaml(&object).into_bytes(),
        PROTOBUF => protobuf::encode_object(&object).unwrap_or_default(),
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
    let (collection, name) = PLACES[which];
    let status = if dice.below(5) == 0 && method != "DELETE" { "/status" } else { "" };
    let path =
        if method == "POST" { format!("{collection}{query}") } else { format!("{collection}/{name}{status}{query}") };
    let _ = writeln!(what, "{method} {path} {media}: {:.2000}", String::from_utf8_lossy(&body));
    world.send(what, method, &path, media, body).await;
}

fn operations(dice: &mut Dice<'_>) -> Value {
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
    operations.collect()
}

/// Some requests for whatever paths, with whatever parameters and headers.
pub(super) fn paths(bytes: &[u8]) {
    let dice = &mut Dice::of(bytes);
    block_on(async {
        let world = World::new().await;
        for _ in 0..32 {
            any_path(&world, dice).await;
        }
    });
}

async fn any_path(world: &World, dice: &mut Dice<'_>) {
    let good = ["/api/v1/namespaces/default/pods/p", "/apis/batch/v1/namespaces/default/jobs", "/openapi/v3", ""];
    let mut path = dice.one(&good).to_owned();
    for _ in 0..dice.below(6) {
        path = path + "/" + dice.one(SEGMENTS);
    }
    for at in 0..dice.below(4) {
        path = path + if at == 0 { "?" } else { "&" } + dice.one(PARAMS);
    }
    let Ok(uri) = Uri::try_from(if path.is_empty() { "/" } else { &path }) else { return };
    let method = dice.one(&["GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "X"]);
    let mut request = Request::builder().method(method).uri(uri);
    let mut what = format!("{method} {path}");
    for _ in 0..dice.below(4) {
        let (name, value) = dice.one(HEADERS);
        let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
        let _ = write!(what, " {name}: {value:?}");
        request = request.header(HeaderName::from_static(name), value);
    }
    world.request(&what, request.body(Body::from("{}")).expect("its parts are good")).await;
}

/// Numbers to begin with, for what is made by chance.
pub(super) fn chances() -> Vec<Vec<u8>> {
    let some = |seed: u64| {
        let mut dice = Dice::new(seed);
        (0..64).flat_map(|_| dice.roll().to_le_bytes()).collect()
    };
    (0..8).map(some).collect()
}

const SEGMENTS: &[&str] = &[
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

const PARAMS: &[&str] = &[
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

const HEADERS: &[(&str, &str)] = &[
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
