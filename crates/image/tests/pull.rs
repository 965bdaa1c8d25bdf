//! Pulling: from a real registry where one is installed, and from small servers that misbehave in every known way.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stint_image::{Access, Digest, Image, ImageStore, LayerState, Login, NoProgress, Progress, PullError, Reference};
use support::*;

struct Store {
    folder: tempfile::TempDir,
    store: ImageStore,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        Self { folder, store }
    }

    async fn pull(&self, name: &str, access: &Access) -> Result<Image, PullError> {
        self.store.pull(&name.parse().unwrap(), access, &NoProgress).await
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join(folder)).unwrap().count()
    }
}

/// How a server answers.
type Answers = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

#[derive(Default)]
struct Seen(Mutex<Vec<(String, LayerState)>>);

impl Progress for Seen {
    fn layer(&self, digest: &str, state: LayerState) {
        self.0.lock().unwrap().push((digest.to_owned(), state));
    }
}

fn mirror(registry: &str, host: &str) -> Access {
    Access { mirrors: vec![(registry.to_owned(), format!("http://{host}"))], ..Access::default() }
}

/// Bytes that do not compress, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 42_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn large_image() -> Built {
    image(&[(Tar::new().file("noise", noise(3 << 20)).end(), gzip), (Tar::new().file("top", "").end(), gzip)])
}

/// Debian's registry on a port of loopback that it chooses.
struct RealRegistry {
    child: Child,
    host: String,
    _folder: tempfile::TempDir,
}

impl RealRegistry {
    fn start(extra: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{}",
            folder.path().join("data").display(),
            extra.replace("FOLDER", folder.path().to_str().unwrap()),
        );
        fs::write(folder.path().join("config.yml"), config).unwrap();
        // user "app", password "secret"
        let password = "app:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
        fs::write(folder.path().join("htpasswd"), password).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: docker-registry is not installed");
            return None;
        };
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let host = loop {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "docker-registry does not start:\n{said}");
            if let Some((_, rest)) = said.split_once("listening on ") {
                let end = rest.find(|c: char| c != ':' && c != '.' && !c.is_ascii_digit());
                break rest[..end.unwrap_or(rest.len())].to_owned();
            }
        };
        // Somebody has to read what else it says.
        std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
        Some(Self { child, host, _folder: folder })
    }

    async fn push(&self, name: &str, built: &Built) {
        self.push_as(name, built, None).await;
    }

    async fn push_as(&self, name: &str, built: &Built, login: Option<(&str, &str)>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let sign = |request: reqwest::RequestBuilder| match login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let (repository, tag) = name.split_once(':').unwrap();
        let base = format!("http://{}/v2/{repository}", self.host);
        for (digest, blob) in &built.blobs {
            let begun = sign(client.post(format!("{base}/blobs/uploads/"))).send().await.unwrap();
            assert_eq!(begun.status(), 202);
            let mut url = reqwest::Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
            url.query_pairs_mut().append_pair("digest", digest);
            let ended = sign(client.put(url)).body(blob.clone()).send().await.unwrap();
            assert_eq!(ended.status(), 201);
        }
        self.put_manifest(name, built.manifest.clone(), "manifest", login).await;
        assert!(!tag.is_empty());
    }

    async fn put_manifest(&self, name: &str, bytes: Vec<u8>, kind: &str, login: Option<(&str, &str)>) {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let (repository, tag) = name.split_once(':').unwrap();
        let mut request = client
            .put(format!("http://{}/v2/{repository}/manifests/{tag}", self.host))
            .header("content-type", format!("application/vnd.oci.image.{kind}.v1+json"))
            .body(bytes);
        if let Some((user, password)) = login {
            request = request.basic_auth(user, Some(password));
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_image_comes_from_a_real_registry_through_a_mirror_under_its_own_name() {
    let Some(registry) = RealRegistry::start("").filter(|_| is_root()) else { return };
    let built = small_image();
    registry.push("library/perl:5.34.0", &built).await;
    let store = Store::new();
    let seen = Seen::default();
    let reference: Reference = "perl:5.34.0".parse().unwrap();
    let access = mirror(reference.registry(), &registry.host);
    let image = store.store.pull(&reference, &access, &seen).await.unwrap();
    assert_eq!((image.reference.familiar().as_str(), &image.digest), ("perl:5.34.0", &built.digest()));
    assert_eq!(fs::read_to_string(image.layers[0].join("bin/tool")).unwrap(), "#!/bin/sh\n");
    assert_eq!(store.store.get(&reference).unwrap().unwrap().layers, image.layers);
    let seen = seen.0.into_inner().unwrap();
    assert_eq!(seen.iter().filter(|(_, state)| *state == LayerState::Done).count(), 2);
    assert!(seen.iter().any(|(_, state)| matches!(state, LayerState::Downloading { done, total } if done == total)));

    // Again: nothing to bring.
    let seen = Seen::default();
    store.store.pull(&reference, &access, &seen).await.unwrap();
    assert!(seen.0.into_inner().unwrap().iter().all(|(_, s)| matches!(s, LayerState::Waiting | LayerState::Cached)));

    // By digest, and from the registry itself by its own name.
    let by_digest = format!("{}/library/perl@{}", registry.host, built.digest());
    assert_eq!(store.pull(&by_digest, &Access::default()).await.unwrap().digest, built.digest());
    let by_tag = format!("{}/library/perl:5.34.0", registry.host);
    assert_eq!(store.pull(&by_tag, &Access::default()).await.unwrap().layers, image.layers);
    assert_eq!((store.count("layers"), store.count("work")), (2, 0));
}

#[tokio::test]
async fn a_real_registry_says_in_its_own_words_what_is_missing() {
    let Some(registry) = RealRegistry::start("").filter(|_| is_root()) else { return };
    registry.push("team/tool:1", &small_image()).await;
    let store = Store::new();
    for name in ["team/tool:2", "team/other:1"] {
        let error = store.pull(&format!("{}/{name}", registry.host), &Access::default()).await.unwrap_err();
        assert!(matches!(error, PullError::NotFound { .. }), "{error:?}");
        assert!(error.is_permanent());
        let text = error.to_string();
        assert!(text.contains("404") && text.contains("_UNKNOWN") && text.contains(name), "{text}");
        assert!(text.contains("unknown") || text.contains("not known"), "{text}");
    }
}

#[tokio::test]
async fn a_real_registrys_index_gives_this_machines_image() {
    let Some(registry) = RealRegistry::start("").filter(|_| is_root()) else { return };
    let (ours, _) = platform();
    let (mine, other) = (small_image(), image_for("s390x", &[(Tar::new().file("o", "").end(), gzip)]));
    registry.push("a:mine", &mine).await;
    registry.push("a:other", &other).await;
    let index = index_of(&[("s390x", &other), (ours, &mine)]);
    registry.put_manifest("a:1", index.clone(), "index", None).await;
    registry.put_manifest("a:2", index_of(&[("s390x", &other)]), "index", None).await;
    let store = Store::new();
    let image = store.pull(&format!("{}/a:1", registry.host), &Access::default()).await.unwrap();
    assert_eq!((&image.digest, image.index.clone().unwrap()), (&mine.digest(), Digest::of(&index)));
    let by_index = format!("{}/a@{}", registry.host, Digest::of(&index));
    assert!(store.store.get(&by_index.parse().unwrap()).unwrap().is_some());
    let text = store.pull(&format!("{}/a:2", registry.host), &Access::default()).await.unwrap_err().to_string();
    assert!(text.contains("linux/s390x") && text.contains(ours), "{text}");
}

#[tokio::test]
async fn a_real_registry_with_passwords_tries_each_login_and_tells_a_refusal() {
    let extra = "auth:\n  htpasswd:\n    realm: test\n    path: FOLDER/htpasswd\n";
    let Some(registry) = RealRegistry::start(extra).filter(|_| is_root()) else { return };
    let name = format!("{}/a:1", registry.host);
    let login =
        |password: &str| (registry.host.clone(), Login::Password { username: "app".into(), password: password.into() });
    let store = Store::new();
    let error = store.pull(&name, &Access::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error:?}");
    assert!(error.to_string().contains("authentication required"), "{error}");
    let wrong = Access { logins: vec![login("wrong")], ..Access::default() };
    assert!(matches!(store.pull(&name, &wrong).await, Err(PullError::Unauthorized { .. })));
    registry.push_as("a:1", &small_image(), Some(("app", "secret"))).await;
    let right = Access { logins: vec![login("wrong"), login("secret")], ..Access::default() };
    store.pull(&name, &right).await.unwrap();
}

#[tokio::test]
async fn a_token_service_gives_the_right_to_pull_and_gets_the_password() {
    if !is_root() {
        return;
    }
    let images = vec![("team/tool:1".to_owned(), small_image())];
    let server = Arc::new(Mutex::new(String::new()));
    let tokens = Arc::new(AtomicUsize::new(0));
    let registry = Server::start({
        let (server, tokens) = (Arc::clone(&server), Arc::clone(&tokens));
        move |request| {
            if request.path.starts_with("/token") {
                assert!(request.path.contains("scope=repository%3Ateam%2Ftool%3Apull"), "{}", request.path);
                assert!(request.path.contains("service=here"), "{}", request.path);
                // app:secret
                if request.headers.get("authorization").map(String::as_str) != Some("Basic YXBwOnNlY3JldA==") {
                    return Answer::new(401, error("UNAUTHORIZED", "who are you?"));
                }
                let number = tokens.fetch_add(1, Ordering::SeqCst);
                return Answer::new(200, format!(r#"{{"token":"t{number}"}}"#));
            }
            // Each token is good until the next one is made: as if it had expired.
            let current = format!("Bearer t{}", tokens.load(Ordering::SeqCst).wrapping_sub(1));
            let expired = request.path.contains("/blobs/") && tokens.load(Ordering::SeqCst) < 2;
            if request.headers.get("authorization") != Some(&current) || expired {
                let realm = format!("Bearer realm=\"http://{}/token\",service=\"here\"", server.lock().unwrap());
                return Answer::new(401, error("UNAUTHORIZED", "authentication required"))
                    .header("www-authenticate", realm);
            }
            serve_images(&images, request)
        }
    });
    server.lock().unwrap().clone_from(&registry.host);
    let login = |password: &str| Access {
        logins: vec![(registry.host.clone(), Login::Password { username: "app".into(), password: password.into() })],
        ..Access::default()
    };
    let name = format!("{}/team/tool:1", registry.host);
    let store = Store::new();
    let error = store.pull(&name, &login("wrong")).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }) && error.to_string().contains("who are you?"), "{error}");
    store.pull(&name, &login("secret")).await.unwrap();
    assert_eq!(tokens.load(Ordering::SeqCst), 2, "one token, and one more after it expired");
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirection_to_another_host() {
    if !is_root() {
        return;
    }
    let built = small_image();
    let blobs: HashMap<String, Vec<u8>> = built.blobs.clone();
    let store_host = Server::start(move |request| ranged(&blobs[request.path.trim_start_matches('/')], request));
    let elsewhere = store_host.host.clone();
    let images = vec![("a:1".to_owned(), built)];
    let registry = Server::start(move |request| match request.path.split_once("/blobs/") {
        Some((_, digest)) => Answer::new(307, "").header("location", format!("http://{elsewhere}/{digest}")),
        None => serve_images(&images, request),
    });
    let access =
        Access { logins: vec![(registry.host.clone(), Login::Token("secret-token".into()))], ..Access::default() };
    Store::new().pull(&format!("{}/a:1", registry.host), &access).await.unwrap();
    let requests = store_host.requests.lock().unwrap();
    assert!(!requests.is_empty() && requests.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn wrong_content_is_refused_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let built = small_image();
    let layer = serde_json::from_slice::<serde_json::Value>(&built.manifest).unwrap()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let config = Digest::of(&built.config).to_string();
    let other = gzip(&Tar::new().file("evil", "").end());
    let flipped = {
        let mut bytes = built.blobs[&layer].clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let longer = [&built.blobs[&layer][..], b"more"].concat();
    let shorter = built.blobs[&layer][..20].to_vec();
    let lies: Vec<(&str, &str, Vec<u8>)> = vec![
        ("another layer", &layer, other),
        ("a flipped bit", &layer, flipped),
        ("a longer layer", &layer, longer),
        ("a shorter layer", &layer, shorter),
        ("another configuration", &config, built.config.iter().rev().copied().collect()),
    ];
    for (case, digest, lie) in lies {
        let images = vec![("a:1".to_owned(), built.clone())];
        let digest = digest.to_owned();
        let registry = Server::start(move |request| {
            if request.path.ends_with(&digest) { Answer::new(200, lie.clone()) } else { serve_images(&images, request) }
        });
        let store = Store::new();
        let error = store.pull(&format!("{}/a:1", registry.host), &Access::default()).await.expect_err(case);
        assert!(matches!(error, PullError::DigestMismatch { .. }), "{case}: {error:?}");
        assert!(!error.is_permanent(), "{case}: another answer may be right");
        assert!(store.store.list().unwrap().is_empty());
        // The other layer's thread may need a moment to notice.
        until(|| store.count("work") == 0).await;
        store.store.sweep().unwrap();
        assert_eq!((store.count("layers"), store.count("blobs")), (0, 0), "{case}");
    }
    // A manifest that is not what was asked for by digest, and one that is not what its own header says.
    let images = vec![("a:1".to_owned(), built.clone())];
    let registry = Server::start(move |request| {
        let answer = serve_images(&images, request);
        if request.path.contains("/manifests/") {
            return Answer::new(200, [&answer.body[..], b" "].concat())
                .header("docker-content-digest", images[0].1.digest());
        }
        answer
    });
    for name in [format!("{}/a:1", registry.host), format!("{}/a@{}", registry.host, built.digest())] {
        let error = Store::new().pull(&name, &Access::default()).await.unwrap_err();
        assert!(matches!(error, PullError::DigestMismatch { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    if !is_root() {
        return;
    }
    for ranges in [true, false] {
        let built = large_image();
        let images = vec![("a:1".to_owned(), built.clone())];
        let registry = Server::start(move |request| {
            let mut answer = serve_images(&images, request);
            if answer.body.len() > 1 << 20 {
                if ranges {
                    answer.cut = Some(1 << 20);
                } else {
                    answer = Answer::new(200, images[0].1.blobs[request.path.rsplit('/').next().unwrap()].clone());
                    answer.cut = Some(if request.headers.contains_key("range") { usize::MAX } else { 2 << 20 });
                }
            }
            answer
        });
        let store = Store::new();
        let image = store.pull(&format!("{}/a:1", registry.host), &Access::default()).await.unwrap();
        assert!(fs::read(image.layers[1].join("noise")).unwrap() == noise(3 << 20));
        let requests = registry.requests.lock().unwrap();
        let resumed: Vec<_> = requests.iter().filter_map(|request| request.headers.get("range")).collect();
        assert!(!resumed.is_empty() && resumed.iter().all(|range| *range != "bytes=0-"), "{resumed:?}");
    }
}

#[tokio::test]
async fn a_download_that_breaks_again_and_again_ends_with_an_error() {
    if !is_root() {
        return;
    }
    let images = vec![("a:1".to_owned(), large_image())];
    let registry = Server::start(move |request| {
        let mut answer = serve_images(&images, request);
        answer.cut = (answer.body.len() > 1 << 20).then_some(10);
        answer
    });
    let error = Store::new().pull(&format!("{}/a:1", registry.host), &Access::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }) && error.to_string().contains("broke off"), "{error}");
}

#[tokio::test]
async fn an_unreachable_registry_is_told_in_bounded_time() {
    // Bound, so that nobody gets it, and nobody listens.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = held.local_addr().unwrap();
    let start = Instant::now();
    let error = Store::new().pull(&format!("{closed}/a:1"), &Access::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
    assert!(!error.is_permanent() && error.to_string().contains("refused"), "{error}");
    assert!(start.elapsed() < Duration::from_mins(1));

    // One that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let access = Access { plain_http: vec![silent.local_addr().unwrap().to_string()], ..Access::default() };
    let start = Instant::now();
    let error = Store::new().pull(&format!("{}/a:1", silent.local_addr().unwrap()), &access).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_mins(1), "{:?}", start.elapsed());

    // A name that does not exist.
    let error = Store::new().pull("registry.invalid/a:1", &Access::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_mirror_that_fails_is_followed_by_the_next_and_all_are_named_when_none_serves() {
    if !is_root() {
        return;
    }
    let good = Server::registry(&[("team/tool:1", &small_image())]);
    let empty = Server::registry(&[]);
    let broken = Server::start(|_| Answer::new(503, "out of\n  order"));
    let mirrors = |hosts: &[&str]| Access {
        mirrors: hosts.iter().map(|host| ("registry.invalid".to_owned(), format!("http://{host}"))).collect(),
        ..Access::default()
    };
    let store = Store::new();
    let name = "registry.invalid/team/tool:1";
    store.pull(name, &mirrors(&[&broken.host, &empty.host, &good.host])).await.unwrap();
    assert!(good.count("ns=registry.invalid") > 0, "a mirror of several registries needs to know whose image it is");
    let error = store.pull(name, &mirrors(&[&broken.host, &empty.host])).await.unwrap_err();
    let PullError::Everywhere { attempts, .. } = &error else { panic!("{error:?}") };
    assert_eq!(attempts.len(), 3);
    assert!(matches!(attempts[0], PullError::Registry { status: Some(503), .. }));
    assert!(matches!(attempts[1], PullError::NotFound { .. }));
    assert!(matches!(attempts[2], PullError::Unreachable { .. }));
    let text = error.to_string();
    assert!(
        text.contains("out of order") && text.contains("MANIFEST_UNKNOWN") && text.contains("registry.invalid"),
        "{text}"
    );
    assert!(!error.is_permanent());

    let prefixed = Server::registry(&[("proxy/team/tool:1", &small_image())]);
    store.pull(name, &mirrors(&[&format!("{}/proxy", prefixed.host)])).await.unwrap();
}

#[tokio::test]
async fn many_who_wait_for_one_image_cause_one_download() {
    if !is_root() {
        return;
    }
    let built = large_image();
    let registry = Server::registry(&[("a:1", &built)]);
    let store = Store::new();
    let reference: Reference = format!("{}/a:1", registry.host).parse().unwrap();
    let waiters: Vec<_> = (0..20)
        .map(|_| {
            let (store, reference) = (store.store.clone(), reference.clone());
            tokio::spawn(async move {
                let seen = Seen::default();
                let image = store.pull(&reference, &Access::default(), &seen).await.unwrap();
                (image, seen.0.into_inner().unwrap())
            })
        })
        .collect();
    for waiter in waiters {
        let (image, seen) = waiter.await.unwrap();
        assert_eq!(image.layers.len(), 2);
        assert!(seen.iter().any(|(_, state)| *state == LayerState::Done), "everyone sees the progress");
    }
    assert_eq!((registry.count("/manifests/"), registry.count("/blobs/")), (1, 3));
}

#[tokio::test]
async fn a_waiter_who_leaves_does_not_end_the_others_pull_and_the_last_one_does() {
    if !is_root() {
        return;
    }
    let images = vec![("a:1".to_owned(), large_image())];
    // It answers while it is let.
    let gate = Arc::new(tokio::sync::RwLock::new(()));
    let through = Arc::clone(&gate);
    let registry = Server::start(move |request| {
        drop(through.blocking_read());
        serve_images(&images, request)
    });
    let store = Store::new();
    let reference: Reference = format!("{}/a:1", registry.host).parse().unwrap();
    let start = || {
        let (store, reference) = (store.store.clone(), reference.clone());
        tokio::spawn(async move { store.pull(&reference, &Access::default(), &NoProgress).await })
    };
    let shut = gate.write().await;
    let (first, second) = (start(), start());
    until(|| registry.count("") == 1).await;
    first.abort();
    assert!(first.await.is_err());
    drop(shut);
    second.await.unwrap().unwrap();
    store.store.remove(&reference).unwrap();

    let before = registry.count("");
    let shut = gate.write().await;
    let only = start();
    until(|| registry.count("") == before + 1).await;
    only.abort();
    assert!(only.await.is_err());
    until(|| store.count("work") == 0).await;
    drop(shut);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(registry.count(""), before + 1, "nobody waits, so nothing more is asked");
    assert!(store.store.get(&reference).unwrap().is_none());
}

async fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_mins(2), "it does not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn two_images_with_a_common_layer_bring_it_once() {
    if !is_root() {
        return;
    }
    let base = (Tar::new().file("noise", noise(1 << 20)).end(), gzip as Compress);
    let one = image(&[base.clone(), (Tar::new().file("one", "").end(), gzip)]);
    let two = image(&[base, (Tar::new().file("two", "").end(), gzip)]);
    let registry = Server::registry(&[("a:1", &one), ("a:2", &two)]);
    let store = Store::new();
    let (first, second) = (format!("{}/a:1", registry.host), format!("{}/a:2", registry.host));
    let access = Access::default();
    let (first, second) = tokio::join!(store.pull(&first, &access), store.pull(&second, &access));
    assert_eq!(first.unwrap().layers[1], second.unwrap().layers[1]);
    assert_eq!(registry.count("/blobs/"), 5, "two configurations, two layers of their own, one in common");
}

#[tokio::test]
async fn answers_without_end_and_without_sense_are_errors() {
    if !is_root() {
        return;
    }
    let cases: Vec<(&str, Answers, &str)> = vec![
        ("a huge manifest", Box::new(|_| Answer::new(200, vec![b' '; 20 << 20])), "more than"),
        ("no JSON", Box::new(|_| Answer::new(200, "<html>login</html>")), "malformed"),
        ("an old manifest", Box::new(|_| Answer::new(200, r#"{"schemaVersion":1,"name":"a"}"#)), "schema version 1"),
        ("too many requests", Box::new(|_| Answer::new(429, error("TOOMANYREQUESTS", "slow down"))), "slow down"),
        ("an endless redirection", Box::new(|r| Answer::new(307, "").header("location", r.path.clone())), "redirect"),
        (
            "a realm that is none",
            Box::new(|_| Answer::new(401, "").header("www-authenticate", "Bearer realm=\"::\"")),
            "token service",
        ),
        (
            "a token with a line break",
            Box::new(|r| {
                if r.path.starts_with("/t") {
                    return Answer::new(200, r#"{"token":"a\nb"}"#);
                }
                let host = r.headers["host"].clone();
                Answer::new(401, "").header("www-authenticate", format!("Bearer realm=\"http://{host}/t\""))
            }),
            "header",
        ),
        (
            "a chart",
            Box::new(|r| {
                let config = br#"{"rootfs":{"diff_ids":[]}}"#;
                if r.path.contains("/blobs/") {
                    return Answer::new(200, &config[..]);
                }
                let text = format!(
                    r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":1}},"layers":[{{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":"{}","size":1}}]}}"#,
                    Digest::of(config),
                    Digest::of(b"x")
                );
                Answer::new(200, text)
            }),
            "no container layer",
        ),
    ];
    for (case, answer, expected) in cases {
        let registry = Server::start(answer);
        let access = Access { plain_http: vec![registry.host.clone()], ..Access::default() };
        let text = Store::new().pull(&format!("{}/a:1", registry.host), &access).await.expect_err(case).to_string();
        assert!(text.contains(expected), "{case}: {text}");
    }
}

/// A registry whose certificate an authority of our own has signed.
#[tokio::test]
async fn tls_needs_an_authority_that_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let arguments = arguments.replace("DIR", folder.path().to_str().unwrap());
        Command::new("openssl").args(arguments.split(' ')).stderr(Stdio::null()).stdout(Stdio::null()).status()
    };
    let made = openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout DIR/ca.key -out DIR/ca.pem -days 2 -subj /CN=test-ca",
    );
    if made.is_err() || !is_root() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    fs::write(folder.path().join("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout DIR/key.pem -out DIR/csr.pem -subj /CN=localhost").unwrap();
    openssl("x509 -req -in DIR/csr.pem -CA DIR/ca.pem -CAkey DIR/ca.key -CAcreateserial -out DIR/cert.pem -days 2 -extfile DIR/ext").unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(readable(&path("cert.pem")));
    let extra =
        format!("  tls:\n    certificate: {}\n    key: {}\n", path("cert.pem").display(), path("key.pem").display());
    let Some(registry) = RealRegistry::start(&extra) else { return };
    let name = format!("{}/a:1", registry.host);
    // It is on loopback, so plain HTTP comes first, and TLS when the answer shows that it is needed.
    let error = Store::new().pull(&name, &Access::default()).await.unwrap_err();
    assert!(!matches!(error, PullError::NotFound { .. }), "{error}");
    let access = Access { authorities: vec![fs::read(path("ca.pem")).unwrap()], ..Access::default() };
    let error = Store::new().pull(&name, &access).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
}

fn readable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o400 != 0)
}
