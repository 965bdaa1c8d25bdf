//! Who gets in and what is written down of it: the settings of [`Auth`], its keys' file, and their change while it is at
//! work.
//!
//! Invariant: what fails is told and leaves things as they were. The file of keys is written before a new key signs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use stint_auth::audit::{AuditLog, Options};
use stint_auth::keys::{Keyring, generate};
use stint_auth::rotation::{Rotation, settled};
use stint_auth::token::Tokens;
use stint_server::auth::{Auth, Limits};
use stint_store::Store;

use crate::folder::write_private;
use crate::settings::Settings;

/// The issuer of tokens: a name, the same whatever the address is.
const ISSUER: &str = "https://kubernetes.default.svc";

/// The door of the API, and what it was last told.
pub struct Door {
    auth: Arc<Auth>,
    keys: PathBuf,
    /// The text of `keys` that is in use.
    known: String,
    audit: Option<Options>,
}

impl Door {
    /// As the settings say, with the keys in `data`.
    pub fn open(data: &Path, settings: &Settings, store: Store) -> anyhow::Result<Door> {
        let keys = data.join("pki/tokens.key");
        let known = settle(&keys, settings)?;
        let tokens = Tokens::new(ISSUER, keyring(&keys, &known)?);
        tokens.set_longest(seconds(settings.service_account_max_token_expiration.0).as_secs());
        let owner = rustix::process::geteuid().as_raw();
        let (reading, mutating) = in_flight(settings);
        let auth = Auth::new(store, owner).with_tokens(tokens).with_limits(Limits::new(reading, mutating));
        let audit = audit(settings);
        auth.set_audit(audit.as_ref().map(AuditLog::open).transpose()?);
        Ok(Door { auth: Arc::new(auth), keys, known, audit })
    }

    /// For the API.
    pub fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.auth)
    }

    /// Takes what the settings say now.
    pub fn reload(&mut self, settings: &Settings) {
        let (reading, mutating) = in_flight(settings);
        self.auth.limits().set(reading, mutating);
        self.rotate(settings);
        let audit = audit(settings);
        if audit == self.audit {
            return;
        }
        match audit.as_ref().map(AuditLog::open).transpose() {
            Ok(log) => {
                self.auth.set_audit(log);
                self.audit = audit;
            }
            Err(error) => tracing::error!("the audit log stays as it is: {:#}", anyhow::Error::from(error)),
        }
    }

    /// Looks at the keys of tokens, and uses those that are there now.
    pub fn rotate(&mut self, settings: &Settings) {
        if let Err(error) = self.try_rotate(settings) {
            tracing::error!("the keys of tokens stay as they are: {error:#}");
        }
    }

    fn try_rotate(&mut self, settings: &Settings) -> anyhow::Result<()> {
        let Some(tokens) = self.auth.tokens() else { return Ok(()) };
        let next = settle(&self.keys, settings)?;
        // First the keys know how long they may have to be kept, then such tokens are made.
        if next != self.known {
            let keys = keyring(&self.keys, &next)?;
            tracing::info!(keys = ?keys, "the keys of tokens have changed; the first one signs");
            tokens.replace_keys(keys);
            self.known = next;
        }
        tokens.set_longest(seconds(settings.service_account_max_token_expiration.0).as_secs());
        Ok(())
    }
}

/// The keys in `path` as they have to be now, which are written there if they were others.
fn settle(path: &Path, settings: &Settings) -> anyhow::Result<String> {
    let old = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.with_context(|| format!("can't read {}", path.display()))?),
    };
    let signs = settings.service_account_key_rotation;
    let rotation = Rotation {
        signs: (!signs.is_zero()).then(|| seconds(signs)),
        longest: seconds(settings.service_account_max_token_expiration.0),
    };
    let text = match &old {
        Some(text) => text.clone(),
        None => generate()?,
    };
    let new = settled(&text, rotation, Timestamp::now()).with_context(|| format!("can't use {}", path.display()))?;
    if old.as_ref() != Some(&new) {
        keyring(path, &new)?;
        write_private(path, new.as_bytes())?;
    }
    Ok(new)
}

fn keyring(path: &Path, text: &str) -> anyhow::Result<Keyring> {
    Keyring::from_pem(text).with_context(|| format!("can't use {}", path.display()))
}

fn in_flight(settings: &Settings) -> (usize, usize) {
    let places = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    (places(settings.max_requests_inflight), places(settings.max_mutating_requests_inflight))
}

fn audit(settings: &Settings) -> Option<Options> {
    let path = settings.audit_log_path.clone()?;
    let usual = Options::new(path);
    Some(Options {
        bytes: u64::from(settings.audit_log_maxsize) << 20,
        older: usize::try_from(settings.audit_log_maxbackup).unwrap_or(usize::MAX),
        reads: settings.audit_log_reads,
        ..usual
    })
}

fn seconds(time: Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
}
