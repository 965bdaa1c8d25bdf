//! A client of an API that a kubeconfig names, or of the cluster that this process runs in.
//!
//! ```text
//!   request ─► kube's client ─► answer
//!     ▲                           │ 429: it was not performed, so once more, when the API says
//!     └───────────────────────────┤ 401: the kubeconfig is read again, and once more with what it says now
//!                                 └ nobody answers, or not in time: an error, and the kubeconfig is read again
//! ```
//!
//! Invariant: a request goes out twice only where the answer says that it was not performed. Whatever may have been performed
//! is for whoever asked to find out: a pod that is created twice is one too many.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::header::{RETRY_AFTER, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Semaphore;
use tower::BoxError;

use crate::client::Part;

/// How long an answer may take that does not stay open.
const ANSWER: Duration = Duration::from_secs(30);
/// How long nothing may come of a connection. Longer than the watches of the controllers last.
const SILENCE: Duration = Duration::from_secs(90);
/// How many requests are under way at once, watches apart: each has a connection of its own.
const AT_ONCE: usize = 64;
/// How often a request is sent that the API has no room for.
const ATTEMPTS: usize = 10;
/// The longest wait for room.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often the kubeconfig is read again at most.
const RENEWAL: Duration = Duration::from_secs(5);

/// What says where an API is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The current context of this kubeconfig.
    File(PathBuf),
    /// What a cluster gives every pod: an address in the environment, and a token in a volume.
    InCluster,
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Source, Self::Err> {
        Ok(if text == "in-cluster" { Source::InCluster } else { Source::File(PathBuf::from(text)) })
    }
}

/// A client of the API of `source`, for `part` of this process.
///
/// # Errors
///
/// When there is no such file, or its current context can't be used. Whether the server answers is only seen later.
pub async fn client(source: &Source, part: Part) -> anyhow::Result<Client> {
    let client = connect(source, part).await?;
    let namespace = client.default_namespace().to_owned();
    let now = Mutex::new(Current { client, since: Instant::now() });
    let way = Arc::new(Way { source: source.clone(), part, now, room: Semaphore::new(AT_ONCE) });
    let service = tower::service_fn(move |request: Request<Body>| {
        let way = Arc::clone(&way);
        async move { way.send(request).await }
    });
    Ok(Client::new(service, namespace))
}

/// The way to one API.
struct Way {
    source: Source,
    part: Part,
    now: Mutex<Current>,
    /// Of requests that do not stay open.
    room: Semaphore,
}

/// Kube's client, made of what the source said at that time.
struct Current {
    client: Client,
    since: Instant,
}

impl Way {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        for attempt in 1.. {
            let again = copy(&request);
            let answer = self.send_once(request).await;
            let (Ok(response), Some(next)) = (&answer, again.filter(|_| attempt < ATTEMPTS)) else {
                if answer.is_err() {
                    self.renew().await;
                }
                return answer;
            };
            match response.status() {
                StatusCode::TOO_MANY_REQUESTS => tokio::time::sleep(wait(response.headers())).await,
                StatusCode::UNAUTHORIZED if self.renew().await => {}
                _ => return answer,
            }
            request = next;
        }
        unreachable!("the last attempt returns")
    }

    async fn send_once(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let client = self.now().client.clone();
        let stays = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let what = format!("{} {}", request.method(), request.uri().path());
        let answer = client.send(request);
        if stays {
            return Ok(answer.await?);
        }
        let _room = self.room.acquire().await.expect("it is never closed");
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(format!("{what}: no answer within {} s", ANSWER.as_secs()).into()),
        }
    }

    /// Reads the source again and goes on with what it says; returns whether it did. What can't be used changes nothing.
    async fn renew(&self) -> bool {
        if self.now().since.elapsed() < RENEWAL {
            return false;
        }
        self.now().since = Instant::now();
        match connect(&self.source, self.part).await {
            Ok(client) => {
                *self.now() = Current { client, since: Instant::now() };
                true
            }
            Err(error) => {
                tracing::warn!("goes on with what it knew of the API: {error:#}");
                false
            }
        }
    }

    fn now(&self) -> MutexGuard<'_, Current> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same request, unless its body can only be sent once.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    request.method().clone_into(copy.method_mut());
    request.uri().clone_into(copy.uri_mut());
    request.headers().clone_into(copy.headers_mut());
    Some(copy)
}

/// For how long the API wants to be left alone.
fn wait(headers: &HeaderMap) -> Duration {
    let said = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    said.map_or(Duration::from_secs(1), Duration::from_secs).min(LONGEST_WAIT)
}

/// Kube's own client, which asks nothing yet.
async fn connect(source: &Source, part: Part) -> anyhow::Result<Client> {
    let mut config = match source {
        Source::File(file) => {
            of_file(file).await.with_context(|| format!("can't use the kubeconfig {}", file.display()))?
        }
        Source::InCluster => Config::incluster().context("can't use what a cluster gives its pods; is this a pod?")?,
    };
    config.default_retry = false; // it repeats what may have been performed
    if part == Part::Controllers {
        // What a command follows may be silent for as long as it likes.
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
    }
    config.headers.push((USER_AGENT, HeaderValue::from_static(part.agent())));
    // A program that logs in may take its time.
    let built = tokio::task::spawn_blocking(move || ClientBuilder::try_from(config).map(ClientBuilder::build)).await?;
    built.context("can't make a client of it")
}

async fn of_file(file: &Path) -> anyhow::Result<Config> {
    std::fs::metadata(file).with_context(|| format!("can't read the kubeconfig {}", file.display()))?;
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &KubeConfigOptions::default()).await?;
    let (auth, plain) = (&config.auth_info, config.cluster_url.scheme() == Some(&Scheme::HTTP));
    if plain && (auth.token.is_some() || auth.token_file.is_some() || auth.password.is_some() || auth.exec.is_some()) {
        bail!("what shows who asks would be sent without TLS");
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(cluster: &Value, user: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config",
            "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "here", "user": "me" } }],
            "clusters": [{ "name": "other", "cluster": {} }, { "name": "here", "cluster": cluster }],
            "users": [{ "name": "me", "user": user }],
        })
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let (plain, none) = (json!({ "server": "http://a" }), json!({}));
        let mut nowhere = config(&plain, &none);
        nowhere["current-context"] = json!("gone");
        let bad = json!({ "server": "https://a", "certificate-authority-data": "?" });
        let absent = json!({ "server": "https://a", "certificate-authority": "no/file" });
        for (config, expected) in [
            (json!({}), "current context"),
            (nowhere, "gone"),
            (config(&none, &none), "cluster url is missing"),
            (config(&plain, &json!({ "token": "secret" })), "without TLS"),
            (config(&bad, &none), "base64"),
            (config(&absent, &none), "no/file"),
        ] {
            std::fs::write(&file, config.to_string()).unwrap();
            let error = client(&Source::File(file.clone()), Part::Command).await.err().expect(expected);
            let error = format!("{error:#}");
            assert!(error.contains(expected) && error.contains("can't use the kubeconfig"), "{expected}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        std::fs::write(&file, config(&plain, &none).to_string()).unwrap();
        assert!(client(&Source::File(file), Part::Command).await.is_ok());
    }

    #[test]
    fn the_api_says_how_long_it_wants_to_be_left_alone() {
        let waits = |said: Option<&'static str>| {
            wait(&said.map(|said| (RETRY_AFTER, HeaderValue::from_static(said))).into_iter().collect())
        };
        assert_eq!(waits(Some("7")), Duration::from_secs(7));
        assert_eq!(waits(Some("86400")), LONGEST_WAIT);
        for unsaid in [None, Some("Wed, 21 Oct 2026 07:28:00 GMT")] {
            assert_eq!(waits(unsaid), Duration::from_secs(1));
        }
    }
}
