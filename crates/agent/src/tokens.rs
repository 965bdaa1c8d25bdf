//! The ServiceAccount tokens of a pod: which it asks for, how they are had, and when they are replaced.
//!
//! Invariants: a token is bound to its pod, and so ends with it; one that is still good is kept when no newer one can be had;
//! no token is ever logged.
//! Upstream: `pkg/kubelet/token/token_manager.go`, v1.36. There is no jitter: one node asks, and its pods began at
//! different times.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PodSpec, ServiceAccountTokenProjection};
use kube::Client;
use serde_json::{Value, json};

use crate::error::Error;
use crate::folder::Identity;

/// How long a token is asked for if nobody says.
const USUAL_SECONDS: i64 = 3600;
/// A token is replaced when it is this old, however long it would be good.
const OLDEST: SignedDuration = SignedDuration::from_hours(24);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// For whom it is to be; empty: for the API itself.
    pub audience: String,
    /// How long it is to be good.
    pub seconds: i64,
}

impl Ask {
    /// What a source of a projected volume asks for.
    pub fn of(source: &ServiceAccountTokenProjection) -> Ask {
        Ask {
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(USUAL_SECONDS),
        }
    }

    /// All that a pod's volumes ask for.
    pub(crate) fn all(spec: &PodSpec) -> BTreeSet<Ask> {
        let sources = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
        let sources = sources.flat_map(|projected| projected.sources.iter().flatten());
        sources.filter_map(|source| source.service_account_token.as_ref()).map(Ask::of).collect()
    }
}

/// A token that was had.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Token {
    /// What the API answered.
    fn read(answer: &Value) -> Option<Token> {
        let status = answer.get("status")?;
        let expires: Timestamp = status.get("expirationTimestamp")?.as_str()?.parse().ok()?;
        let seconds = answer.get("spec")?.get("expirationSeconds")?.as_i64()?;
        let issued = expires.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        Some(Token { text: status.get("token")?.as_str()?.to_owned(), issued, expires })
    }

    /// From when on it is to be replaced: once four fifths of its time are over, or a day.
    fn renew_at(&self) -> Timestamp {
        let whole = self.expires.duration_since(self.issued);
        self.issued.checked_add((whole / 5 * 4).min(OLDEST)).unwrap_or(Timestamp::MAX)
    }

    /// Whether it is to be replaced; also when the clock was set back to before it was made.
    fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at() || now < self.issued
    }
}

/// The tokens of one pod.
#[derive(Debug, Default)]
pub(crate) struct Tokens(BTreeMap<Ask, Token>);

impl Tokens {
    /// What the pod asks for, replaced where it is due.
    pub(crate) async fn current(
        &mut self,
        client: &Client,
        pod: &Identity,
        spec: &PodSpec,
        now: Timestamp,
    ) -> Result<BTreeMap<Ask, String>, Error> {
        for ask in Ask::all(spec) {
            let known = self.0.get(&ask);
            if known.is_some_and(|token| !token.is_due(now)) {
                continue;
            }
            match request(client, pod, account(spec), &ask).await {
                Ok(token) => drop(self.0.insert(ask, token)),
                Err(error) if known.is_some_and(|token| now < token.expires) => {
                    tracing::warn!(
                        pod = pod.name, error = %error.chain(),
                        "the pod keeps its ServiceAccount token; a new one is asked for again"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.0.iter().map(|(ask, token)| (ask.clone(), token.text.clone())).collect())
    }

    /// When the next one is to be replaced.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.0.values().map(Token::renew_at).min()
    }
}

fn account(spec: &PodSpec) -> &str {
    spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
}

/// Asks the API for a token that ends with the pod.
async fn request(client: &Client, pod: &Identity, account: &str, ask: &Ask) -> Result<Token, Error> {
    let object = format!("of serviceaccount {}/{account}", pod.namespace);
    let audiences: Vec<&str> =
        Some(ask.audience.as_str()).filter(|audience| !audience.is_empty()).into_iter().collect();
    // As bare JSON: the types of the answer would be used for nothing else.
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": ask.seconds,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid },
        },
    });
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod.namespace);
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    let request = request.body(body.to_string().into_bytes());
    let request = request.map_err(|fault| Error::config(format!("serviceaccount {account:?}: {fault}")))?;
    let answer: Value = client.request(request).await.map_err(Error::api("get a token", object.clone()))?;
    Token::read(&answer).ok_or_else(|| Error::config(format!("the API's answer holds no token {object}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(lifetime: i64) -> Token {
        let answer = json!({
            "spec": {"expirationSeconds": lifetime},
            "status": {"token": "t", "expirationTimestamp": Timestamp::from_second(1_000_000 + lifetime).unwrap()},
        });
        Token::read(&answer).unwrap()
    }

    #[test]
    fn a_token_is_replaced_after_four_fifths_of_its_time_or_a_day() {
        for (lifetime, after) in [(600, 480), (3607, 2885), (86_400, 69_120), (108_000, 86_400), (1 << 32, 86_400)] {
            let token = token(lifetime);
            let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
            assert_eq!(token.renew_at().as_second() - 1_000_000, after, "{lifetime}");
            assert!(!token.is_due(at(0)) && !token.is_due(at(after - 1)) && token.is_due(at(after + 1)), "{lifetime}");
            assert!(token.is_due(at(-1)), "the clock was set back");
        }
    }

    #[test]
    fn what_is_no_answer_is_no_token() {
        for answer in [json!({}), json!({"spec": {"expirationSeconds": 1}, "status": {"token": "t"}})] {
            assert_eq!(Token::read(&answer), None);
        }
    }

    #[test]
    fn a_pod_asks_once_for_what_two_volumes_hold() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [], "volumes": [
            {"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "x"}},
                                                    {"serviceAccountToken": {"path": "y", "audience": "z"}}]}},
            {"name": "b", "projected": {"sources": [
                {"serviceAccountToken": {"path": "x", "expirationSeconds": 3600}}]}}]}))
        .unwrap();
        let asks: Vec<Ask> = Ask::all(&spec).into_iter().collect();
        let ask = |audience: &str| Ask { audience: audience.into(), seconds: 3600 };
        assert_eq!(asks, [ask(""), ask("z")]);
    }
}
