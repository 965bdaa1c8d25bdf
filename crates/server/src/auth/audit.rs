//! A request's line in the audit log.
//!
//! Invariant: every request from outside has one line, also if it is refused or if its client hangs up; reading health
//! and version, which probes do all the time, has none.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, StatusCode, Uri, header};
use jiff::Timestamp;
use stint_auth::audit::{AuditLog, Happened};
use stint_auth::{Attributes, Peer, User, What};

use super::{Asked, is_probed};
use crate::Api;
use crate::Clock;

/// What is told of a request whose client did not wait for its answer: nginx's code for that.
const HUNG_UP: u16 = 499;

/// A line that is not written yet. It is when this is dropped, at the latest.
pub(super) struct Record {
    log: Arc<AuditLog>,
    clock: Arc<dyn Clock>,
    id: String,
    received: Timestamp,
    uri: Uri,
    agent: Option<HeaderValue>,
    address: Option<IpAddr>,
    asked: Attributes,
    long_running: bool,
    sender: Option<Arc<User>>,
    user: Option<Arc<User>>,
    /// What the pod would violate of what its namespace says.
    violations: Option<String>,
    code: u16,
}

impl Record {
    pub(super) fn begin(log: Arc<AuditLog>, api: &Api, id: &str, parts: &Parts, asked: &Asked) -> Self {
        Self {
            log,
            clock: api.clock.clone(),
            id: id.to_owned(),
            received: api.clock.now(),
            uri: parts.uri.clone(),
            agent: parts.headers.get(header::USER_AGENT).cloned(),
            address: parts.extensions.get::<Peer>().and_then(Peer::address),
            asked: asked.main.clone(),
            long_running: asked.is_long_running(),
            sender: None,
            user: None,
            violations: None,
            code: HUNG_UP,
        }
    }

    /// Who sent the request is known.
    pub(super) fn sent_by(&mut self, user: Arc<User>) {
        self.sender = Some(user);
    }

    /// For whom it is to be carried out is known.
    pub(super) fn acts_as(&mut self, user: Arc<User>) {
        self.user = Some(user);
    }

    /// What Pod Security notes of it.
    pub(super) fn violates(&mut self, violations: &str) {
        self.violations = Some(violations.to_owned());
    }

    /// It has been answered.
    pub(super) fn end(mut self, code: StatusCode) {
        self.code = code.as_u16();
    }

    fn is_noise(&self) -> bool {
        self.code < 400 && matches!(&self.asked.what, What::Path(path) if is_probed(path))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.is_noise() {
            return;
        }
        let agent = self.agent.as_ref().and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let uri = self.uri.path_and_query().map_or("", |uri| uri.as_str());
        let happened = Happened {
            id: &self.id,
            received: self.received,
            uri,
            agent,
            address: self.address,
            user: self.sender.as_deref(),
            impersonated: self.user.as_deref().filter(|user| Some(*user) != self.sender.as_deref()),
            asked: &self.asked,
            long_running: self.long_running,
            violations: self.violations.as_deref(),
        };
        self.log.record(&happened, self.code, self.clock.now());
    }
}
