//! One registry, over HTTP: the reading half of the OCI distribution specification.
//!
//! Written here, on `reqwest`, because an image store has to bound what a stranger makes it hold in memory, and to tell
//! people the registry's own words also when access is refused. Credentials go to the registry, or to the token service
//! that it names when that is on TLS; never to where a redirection leads.

use std::error::Error as _;
use std::sync::Once;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Certificate, Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::access::{Access, Endpoint, Login, is_loopback};
use crate::digest::Digest;
use crate::manifest::LARGEST_DOCUMENT;
use crate::reference::{DEFAULT_REGISTRY, Reference};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may send nothing.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it may take until an answer begins, redirections included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a manifest may take in all.
const DOCUMENT_TIMEOUT: Duration = Duration::from_mins(1);
const LARGEST_ERROR: u64 = 64 << 10;
const LARGEST_TOKEN: u64 = 1 << 20;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The registry, or its token service, answered with an error.
    Answer {
        status: u16,
        /// Its codes (`MANIFEST_UNKNOWN`), where it follows the specification.
        codes: Vec<String>,
        /// Status, codes and messages.
        text: String,
    },
    /// No answer, or half of one.
    Connection(String),
    /// An answer that makes no sense.
    Nonsense(String),
    /// The content is not what its digest says.
    Digest(String),
}

/// A repository at a registry, and the right to read it.
pub(crate) struct Repository {
    client: Client,
    endpoint: Endpoint,
    /// With the endpoint's prefix.
    name: String,
    /// Told to mirrors: whose image it is.
    namespace: Option<String>,
    login: Option<Login>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Repository {
    pub(crate) fn new(
        endpoint: &Endpoint,
        reference: &Reference,
        login: Option<&Login>,
        access: &Access,
    ) -> Result<Self, Fault> {
        Ok(Self {
            client: client(endpoint, access)?,
            endpoint: endpoint.clone(),
            name: format!("{}{}", endpoint.prefix, reference.repository()),
            namespace: endpoint.mirror.then(|| reference.registry().to_owned()),
            login: login.cloned(),
            authorization: Mutex::new(None),
        })
    }

    /// A manifest or index by tag or digest, and its digest, which is verified when it was asked for or told.
    pub(crate) async fn manifest(&self, tag_or_digest: &str) -> Result<(Vec<u8>, Digest), Fault> {
        let load = async {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
            let response = self.get(&format!("manifests/{tag_or_digest}"), headers).await?;
            let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
            let told: Vec<String> = told.map(str::to_owned).into_iter().collect();
            let bytes = read_body(response, LARGEST_DOCUMENT).await?;
            let actual = Digest::of(&bytes);
            let asked = tag_or_digest.parse::<Digest>().ok().map(String::from);
            for expected in told.into_iter().chain(asked).filter(|digest| digest.starts_with("sha256:")) {
                if expected != actual.as_str() {
                    return Err(mismatch("the manifest", &expected, &actual));
                }
            }
            Ok((bytes, actual))
        };
        timeout(DOCUMENT_TIMEOUT, load).await.unwrap_or_else(|_| Err(stalled("a manifest", DOCUMENT_TIMEOUT)))
    }

    /// A small blob, verified.
    pub(crate) async fn document(&self, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let load = async {
            let response = self.get(&format!("blobs/{digest}"), HeaderMap::new()).await?;
            let bytes = read_body(response, LARGEST_DOCUMENT).await?;
            let actual = Digest::of(&bytes);
            if actual != *digest {
                return Err(mismatch("the configuration", digest.as_str(), &actual));
            }
            Ok(bytes)
        };
        timeout(DOCUMENT_TIMEOUT, load).await.unwrap_or_else(|_| Err(stalled("a configuration", DOCUMENT_TIMEOUT)))
    }

    /// Begins a blob at an offset. Answers the response, and the offset at which it really begins.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<(Response, u64), Fault> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-")).expect("digits are a header value");
            headers.insert(RANGE, range);
        }
        let response = self.get(&format!("blobs/{digest}"), headers).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((response, 0)); // a registry without ranges begins anew
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
        match start {
            Some(start) if start == offset => Ok((response, start)),
            _ => Err(Fault::Nonsense(format!("a range from byte {offset} was asked, the answer is {range:?}"))),
        }
    }

    async fn get(&self, path: &str, headers: HeaderMap) -> Result<Response, Fault> {
        let mut url = self.url(path)?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        let mut used = self.authorization.lock().await.clone();
        let mut again = true;
        loop {
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            if let Some(authorization) = &used {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = send(request).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && again {
                let mut current = self.authorization.lock().await;
                // Another request may have brought a fresh token meanwhile.
                if *current == used {
                    let challenges = challenges(response.headers());
                    let refusal = answer(response).await;
                    *current = self.authorize(&challenges, refusal).await?;
                }
                used.clone_from(&current);
                again = false;
                continue;
            }
            return if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
                Ok(response)
            } else {
                Err(answer(response).await)
            };
        }
    }

    fn url(&self, path: &str) -> Result<Url, Fault> {
        let Endpoint { host, plain_http, .. } = &self.endpoint;
        let scheme = if *plain_http { "http" } else { "https" };
        // The default registry's name is not the address of its API.
        let host = if host == DEFAULT_REGISTRY { &format!("registry-1.{DEFAULT_REGISTRY}") } else { host };
        let text = format!("{scheme}://{host}/v2/{}/{path}", self.name);
        Url::parse(&text).map_err(|fault| Fault::Connection(format!("{text:?} is no address: {fault}")))
    }

    /// Earns the right that the challenges ask for, or answers the registry's refusal.
    async fn authorize(&self, challenges: &[Challenge], refusal: Fault) -> Result<Option<HeaderValue>, Fault> {
        if let Some(Login::Token(token)) = &self.login {
            return secret(format!("Bearer {token}")).map(Some);
        }
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer" && c.get("realm").is_some()) {
            let token = timeout(DOCUMENT_TIMEOUT, self.token(bearer)).await;
            let token = token.unwrap_or_else(|_| Err(stalled("a token", DOCUMENT_TIMEOUT)))?;
            return secret(format!("Bearer {token}")).map(Some);
        }
        match &self.login {
            Some(Login::Password { username, password }) if challenges.iter().any(|c| c.scheme == "basic") => {
                let request = self.client.get(self.url("")?).basic_auth(username, Some(password)).build();
                let request = request.map_err(|fault| Fault::Nonsense(fault.to_string()))?;
                Ok(request.headers().get(AUTHORIZATION).cloned())
            }
            _ => Err(refusal),
        }
    }

    /// Asks the token service that a challenge names.
    async fn token(&self, challenge: &Challenge) -> Result<String, Fault> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let realm = challenge.get("realm").unwrap_or_default();
        let nonsense = |fault: String| Fault::Nonsense(format!("token service {realm:?}: {fault}"));
        let mut url = Url::parse(realm).map_err(|fault| nonsense(fault.to_string()))?;
        let host = url.host_str().unwrap_or_default();
        if url.scheme() != "https" && !self.endpoint.plain_http && !is_loopback(host) {
            return Err(nonsense("it is not on TLS, so it gets no credentials".to_owned()));
        }
        let scope = format!("repository:{}:pull", self.name);
        let scope = challenge.get("scope").unwrap_or(&scope);
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = challenge.get("service") {
                query.append_pair("service", service);
            }
            query.append_pair("scope", scope);
        }
        let request = match &self.login {
            Some(Login::Password { username, password }) => self.client.get(url).basic_auth(username, Some(password)),
            // As OAuth2 has it; what is asked for is in the body then.
            Some(Login::Identity(token)) => {
                let mut form = form_urlencoded::Serializer::new(url.query().unwrap_or_default().to_owned());
                form.append_pair("grant_type", "refresh_token");
                form.append_pair("refresh_token", token).append_pair("client_id", "stint");
                url.set_query(None);
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                self.client.post(url).header(CONTENT_TYPE, kind).body(form.finish())
            }
            _ => self.client.get(url),
        };
        let response = send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(answer(response).await);
        }
        let bytes = read_body(response, LARGEST_TOKEN).await?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|fault| nonsense(fault.to_string()))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| nonsense("it answers without a token".to_owned()))
    }
}

/// Chooses who does the cryptography of TLS, unless the program has chosen already.
pub fn choose_crypto() {
    static PROVIDER: Once = Once::new();
    // An error means that the program has chosen a provider already.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn client(endpoint: &Endpoint, access: &Access) -> Result<Client, Fault> {
    choose_crypto();
    let plain_http = endpoint.plain_http;
    let mut authorities = Vec::new();
    for pem in &access.authorities {
        let certificates = Certificate::from_pem_bundle(pem);
        authorities.extend(certificates.map_err(|fault| Fault::Nonsense(format!("certificate authority: {fault}")))?);
    }
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("stint/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .redirect(redirections(plain_http));
        if is_loopback(&endpoint.host) { builder.no_proxy() } else { builder }
    };
    match builder().tls_certs_merge(authorities.clone()).build() {
        Ok(client) => Ok(client),
        // A machine without any authorities of its own can still use plain HTTP, and those that it was given.
        Err(_) if plain_http || !authorities.is_empty() => builder().tls_certs_only(authorities).build(),
        Err(fault) => Err(fault),
    }
    .map_err(|fault| {
        Fault::Connection(format!("TLS is not usable (are the ca-certificates installed?): {}", chain(&fault)))
    })
}

/// Few, and never from TLS to plain HTTP.
fn redirections(plain_http: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > 10 {
            attempt.error("too many redirections")
        } else if attempt.url().scheme() != "https" && !plain_http {
            attempt.error("redirected from TLS to plain HTTP")
        } else {
            attempt.follow()
        }
    })
}

async fn send(request: reqwest::RequestBuilder) -> Result<Response, Fault> {
    match timeout(ANSWER_TIMEOUT, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(fault)) => Err(Fault::Connection(chain(&fault))),
        Err(_) => Err(stalled("an answer", ANSWER_TIMEOUT)),
    }
}

/// A whole body of at most `limit` bytes.
async fn read_body(mut response: Response, limit: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|fault| Fault::Connection(chain(&fault)))? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(Fault::Nonsense(format!("an answer of more than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What the registry says about an error, in its own words.
async fn answer(response: Response) -> Fault {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    let body =
        timeout(STALL_TIMEOUT, read_body(response, LARGEST_ERROR)).await.ok().and_then(Result::ok).unwrap_or_default();
    let mut text = status.to_string();
    let mut codes = Vec::new();
    if let Ok(Envelope { errors }) = serde_json::from_slice(&body) {
        for Item { code, message } in errors {
            text.push_str(": ");
            text.push_str(&code);
            if !message.is_empty() {
                text.push_str(": ");
                text.push_str(&message);
            }
            codes.push(code);
        }
    } else if !body.is_empty() && !body.starts_with(b"<") {
        let words: String = String::from_utf8_lossy(&body).split_whitespace().collect::<Vec<_>>().join(" ");
        text.push_str(": ");
        text.extend(words.chars().take(300));
    }
    Fault::Answer { status: status.as_u16(), codes, text }
}

/// An error with all its causes: the outermost alone says "error sending request".
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

pub(crate) fn stalled(what: &str, limit: Duration) -> Fault {
    Fault::Connection(
        format!("no {what} within {} s", limit.as_secs()).replace("no a ", "no ").replace("no an ", "no "),
    )
}

fn mismatch(what: &str, expected: &str, actual: &Digest) -> Fault {
    Fault::Digest(format!("{what}'s digest is {actual}, expected {expected}"))
}

fn secret(text: String) -> Result<HeaderValue, Fault> {
    let value = HeaderValue::try_from(text);
    let mut value = value.map_err(|_| Fault::Nonsense("a token that cannot stand in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// One way to authenticate that a registry offers.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// Lower case.
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse_challenges)
        .collect()
}

/// `Scheme key="value", key=value, Scheme …`: a word without an equals sign begins a new challenge.
fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([',', ' ']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let word = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        if let Some(after) = rest.strip_prefix('=') {
            let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
                parse_quoted(quoted)
            } else {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            };
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.push((word, value));
            }
            rest = after;
        } else if !word.is_empty() {
            challenges.push(Challenge { scheme: word, parameters: Vec::new() });
        }
        rest = rest.trim_start_matches([',', ' ']);
    }
    challenges
}

/// The text up to the closing quote, and what follows it.
fn parse_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return (value, &text[place + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let header = r#"Bearer realm="https://auth.example/token?a=b,c",service="registry \"x\"",scope="repository:a/b:pull", Basic realm=reg"#;
        let found = parse_challenges(header);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), Some("https://auth.example/token?a=b,c"));
        assert_eq!(found[0].get("service"), Some("registry \"x\""));
        assert_eq!(found[0].get("scope"), Some("repository:a/b:pull"));
        assert_eq!((found[1].scheme.as_str(), found[1].get("realm")), ("basic", Some("reg")));
        assert_eq!(parse_challenges("Negotiate"), [Challenge { scheme: "negotiate".into(), parameters: vec![] }]);
        for odd in ["", ",,", "=", "a=\"", "\"", "Bearer realm", "Bearer =x"] {
            parse_challenges(odd); // answers something, and ends
        }
    }

    #[test]
    fn a_token_with_a_line_break_is_nonsense_and_no_panic() {
        assert!(matches!(secret("Bearer a\nb".to_owned()), Err(Fault::Nonsense(_))));
    }
}
