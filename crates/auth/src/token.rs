//! ServiceAccount tokens: made for an account and maybe an object that they end with, and checked against what is stored.
//!
//! Invariant: a token is good for as long as its account, and the pod, Secret or node that it is bound to, are the ones
//! (by uid) that it was made for. Nothing about tokens is stored.
//! Upstream: `pkg/serviceaccount/{claims,jwt}.go`, `pkg/registry/core/serviceaccount/storage/token.go`, v1.36.
//! Left out: tokens in Secrets (`kubernetes.io/service-account-token`), which never expire; the longer life that the
//! kubelet's tokens get upstream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stint_store::Store;

use crate::User;
use crate::keys::{KeyError, Keyring, NotOurs};

/// How long something that is being deleted still counts.
const GRACE_SECONDS: i64 = 60;
/// The longest life that can be asked for, in seconds.
pub const LONGEST: i64 = 1 << 32;
/// How many verified tokens are remembered, so that their signatures need not be computed again.
const REMEMBERED: usize = 1024;

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is.
    pub aud: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// What tells it from all others.
    pub jti: String,
    /// What Kubernetes adds.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Private,
    /// Since when it is good.
    pub nbf: i64,
    /// The user name.
    pub sub: String,
}

/// The account, and what the token ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// The namespace of all but the node.
    pub namespace: String,
    /// The node; beside a pod the one that it is bound to, which then is told and not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The account.
    pub serviceaccount: Reference,
}

/// A certain object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default)]
    pub uid: String,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not signed by us, or no token at all.
    #[error("invalid bearer token")]
    NotOurs,
    /// Its time has passed.
    #[error("service account token has expired")]
    Expired,
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYet,
    /// It is for somebody else.
    #[error("token audiences {0:?} is invalid for the target audiences {1:?}")]
    Audience(Vec<String>, Vec<String>),
    /// What it is bound to is gone, or is another one of the same name.
    #[error("service account token has been invalidated")]
    Invalidated,
}

impl From<NotOurs> for Rejected {
    fn from(_: NotOurs) -> Self {
        Self::NotOurs
    }
}

/// Whom a good token shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The account.
    pub user: User,
    /// For which of the audiences that were asked for.
    pub audiences: Vec<String>,
}

/// Makes and checks tokens.
pub struct Tokens {
    issuer: String,
    audience: String,
    keys: RwLock<Arc<Keyring>>,
    longest: AtomicI64,
    /// Claims of verified tokens by the tokens' SHA-256.
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Signed as `issuer`, an `https` URL, which is also the API's own audience.
    pub fn new(issuer: &str, keys: Keyring) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audience: issuer.to_owned(),
            keys: RwLock::new(Arc::new(keys)),
            longest: AtomicI64::new(LONGEST),
            verified: Mutex::default(),
        }
    }

    /// Uses other keys from now on, for a rotation while the server runs.
    pub fn replace_keys(&self, keys: Keyring) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The longest life of a token from now on, in seconds; at most [`LONGEST`].
    pub fn set_longest(&self, seconds: i64) {
        self.longest.store(seconds.min(LONGEST), Ordering::Relaxed);
    }

    /// The longest life of a token that is made now, in seconds.
    pub fn longest(&self) -> i64 {
        self.longest.load(Ordering::Relaxed)
    }

    fn keys(&self) -> Arc<Keyring> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The audience of the API itself.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The public keys, for `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        self.keys().jwks()
    }

    /// What `/.well-known/openid-configuration` says.
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// A token for `audiences` that lasts `seconds` from `now`. `id` tells it from all others.
    ///
    /// # Panics
    ///
    /// Never: claims can always be written as JSON.
    pub fn issue(
        &self,
        private: Private,
        audiences: Vec<String>,
        seconds: i64,
        now: Timestamp,
        id: String,
    ) -> Result<String, KeyError> {
        let now = now.as_second();
        let claims = Claims {
            aud: audiences,
            exp: now.saturating_add(seconds),
            iat: now,
            iss: self.issuer.clone(),
            jti: id,
            nbf: now,
            sub: User::service_account(&private.namespace, &private.serviceaccount.name).name,
            kubernetes: private,
        };
        let payload = serde_json::to_vec(&claims).expect("claims have string keys and no failing members");
        self.keys().sign(&payload)
    }

    /// Whom `token` shows, if it is for one of `audiences` (none: the API's own).
    pub fn check(&self, token: &str, audiences: &[String], now: Timestamp, store: &Store) -> Result<Shown, Rejected> {
        let claims = self.verify(token)?;
        let now = now.as_second();
        if now >= claims.exp {
            return Err(Rejected::Expired);
        }
        if now < claims.nbf {
            return Err(Rejected::NotYet);
        }
        let own = std::slice::from_ref(&self.audience);
        let wanted = if audiences.is_empty() { own } else { audiences };
        let shared: Vec<String> = claims.aud.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        if shared.is_empty() {
            return Err(Rejected::Audience(claims.aud.clone(), wanted.to_vec()));
        }
        let Private { namespace, node, pod, secret, serviceaccount } = &claims.kubernetes;
        let mut user = User::service_account(namespace, &serviceaccount.name);
        if claims.sub != user.name {
            return Err(Rejected::NotOurs);
        }
        user.uid.clone_from(&serviceaccount.uid);
        expect_live(store, &format!("core/serviceaccounts/{namespace}/{}", serviceaccount.name), serviceaccount, now)?;
        let mut extra = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        extra("credential-id", &format!("JTI={}", claims.jti));
        if let Some(pod) = pod {
            expect_live(store, &format!("core/pods/{namespace}/{}", pod.name), pod, now)?;
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(secret) = secret {
            expect_live(store, &format!("core/secrets/{namespace}/{}", secret.name), secret, now)?;
        }
        if let Some(node) = node {
            if pod.is_none() {
                expect_live(store, &format!("core/nodes/{}", node.name), node, now)?;
            }
            extra("node-name", &node.name);
            if !node.uid.is_empty() {
                extra("node-uid", &node.uid);
            }
        }
        Ok(Shown { user: user.authenticated(), audiences: shared })
    }

    /// The claims of a token that we have signed.
    fn verify(&self, token: &str) -> Result<Arc<Claims>, Rejected> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let digest: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let verified = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = verified().get(&digest) {
            return Ok(claims.clone());
        }
        let keys = self.keys();
        let payload = keys.verify(token)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| Rejected::NotOurs)?;
        if claims.iss != self.issuer {
            return Err(Rejected::NotOurs);
        }
        let claims = Arc::new(claims);
        let mut verified = verified();
        // What the old keys have verified must not outlive them.
        if Arc::ptr_eq(&keys, &self.keys()) {
            if verified.len() >= REMEMBERED {
                verified.clear();
            }
            verified.insert(digest, claims.clone());
        }
        Ok(claims)
    }
}

/// What a token needs to know about an object.
#[derive(Debug, Default, Deserialize)]
struct Stored {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Debug, Default, Deserialize)]
struct Meta {
    #[serde(default)]
    uid: String,
    #[serde(rename = "deletionTimestamp")]
    deletion_timestamp: Option<Timestamp>,
}

/// Refuses a token whose object is not there any more.
fn expect_live(store: &Store, key: &str, wanted: &Reference, now: i64) -> Result<(), Rejected> {
    let entry = store.get(key).ok_or(Rejected::Invalidated)?;
    let stored: Stored = serde_json::from_slice(&entry.value).map_err(|_| Rejected::Invalidated)?;
    let going = stored.metadata.deletion_timestamp.is_some_and(|time| time.as_second() < now - GRACE_SECONDS);
    if going || stored.metadata.uid != wanted.uid { Err(Rejected::Invalidated) } else { Ok(()) }
}
