//! An HTTP request to a container.
//!
//! A redirection within the host is followed, one to another host is not. Certificates are not looked at: the container's
//! own is hardly one that anybody vouches for.

use std::error::Error;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use http::HeaderMap;
use http::header::{ACCEPT, CONNECTION, HeaderName, HeaderValue, USER_AGENT};
use k8s_openapi::api::core::v1::HTTPGetAction;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response};
use stint_core::pod::probe::Answer;

use super::dial_fault;
use crate::error::chain;

/// How much of a body is read, in bytes (`maxRespBodyLength`).
const KEPT: usize = 10 * 1024;
/// How many redirections are followed.
const REDIRECTIONS: usize = 10;

/// One client for all, which keeps no connections.
static CLIENT: LazyLock<Result<Client, String>> = LazyLock::new(|| {
    stint_image::choose_crypto();
    let builder = Client::builder().no_proxy().pool_max_idle_per_host(0).redirect(Policy::custom(redirect));
    builder.danger_accept_invalid_certs(true).build().map_err(|error| chain(&error))
});

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let first = attempt.previous().first().and_then(|url| url.host_str()).map(str::to_owned);
    if attempt.url().host_str() != first.as_deref() {
        attempt.stop()
    } else if attempt.previous().len() >= REDIRECTIONS {
        attempt.error("stopped after 10 redirects")
    } else {
        attempt.follow()
    }
}

/// What the answer to a probe says: 200 to 399 is well, and a redirection that is not followed is told.
pub(super) async fn probe(url: &str, get: &HTTPGetAction, limit: Duration) -> Answer {
    let asked = async {
        let response = send(url, get, "kube-probe/1.36", Some(limit)).await?;
        let status = response.status().as_u16();
        match status {
            200..300 => Ok(Answer::Success),
            300..400 => {
                let body = body(response).await;
                Ok(Answer::Warning(format!("Probe terminated redirects, Response body: {body}")))
            }
            // Not the body: an Event may be read by those who may not read the container's answers.
            _ => Ok(Answer::Failure(format!("HTTP probe failed with statuscode: {status}"))),
        }
    };
    asked.await.unwrap_or_else(Answer::Failure)
}

/// Sends a hook's request; whatever the answer, it was told.
pub(super) async fn notify(url: &str, get: &HTTPGetAction) -> Result<(), String> {
    send(url, get, "kube-lifecycle/1.36", None).await.map(drop)
}

/// Sends the request; the error is told as Go tells it.
async fn send(
    url: &str,
    get: &HTTPGetAction,
    agent: &'static str,
    limit: Option<Duration>,
) -> Result<Response, String> {
    let client = CLIENT.as_ref().map_err(Clone::clone)?;
    let mut request = client.get(url).headers(headers(get, agent));
    if let Some(limit) = limit {
        request = request.timeout(limit);
    }
    request.send().await.map_err(|error| {
        let fault = if error.is_timeout() {
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
        } else {
            let address = url.split('/').nth(2).unwrap_or_default();
            io_fault(&error).map_or_else(|| root(&error).to_string(), |fault| dial_fault(address, fault))
        };
        format!("Get {url:?}: {fault}")
    })
}

fn headers(get: &HTTPGetAction, agent: &'static str) -> HeaderMap {
    let mut all = HeaderMap::new();
    let named = get.http_headers.iter().flatten().filter_map(|header| {
        let name: HeaderName = header.name.parse().ok()?;
        Some((name, HeaderValue::from_str(&header.value).ok()?))
    });
    for (name, value) in named {
        all.append(name, value);
    }
    for (name, value) in [(USER_AGENT, agent), (ACCEPT, "*/*")] {
        if !all.contains_key(&name) {
            all.insert(name, HeaderValue::from_static(value));
        }
    }
    all.insert(CONNECTION, HeaderValue::from_static("close"));
    all
}

/// The beginning of a body.
async fn body(mut response: Response) -> String {
    let mut body = Vec::new();
    while body.len() < KEPT {
        let Ok(Some(piece)) = response.chunk().await else { break };
        body.extend_from_slice(&piece);
    }
    body.truncate(KEPT);
    String::from_utf8_lossy(&body).into_owned()
}

fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root
}

/// Why no connection was made, if that is what happened.
fn io_fault(error: &reqwest::Error) -> Option<&io::Error> {
    if error.is_connect() { root(error).downcast_ref() } else { None }
}
