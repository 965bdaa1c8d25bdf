//! Everything that can go wrong, said in full: what was attempted, on what, and what answered.
//!
//! The texts are whole sentences for a person (they end up in events and on terminals), so no source needs to be
//! appended to them. Errors can be cloned, because everyone who waits for one pull gets its error.

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use crate::digest::Digest;
use crate::reference::InvalidReference;
use crate::unpack::UnpackError;

/// A failure of the store itself, or of an import.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused something on the store's or the archive's files.
    #[error("{attempt}: {error}")]
    Io {
        /// What was attempted, and on what.
        attempt: String,
        /// The answer.
        error: Arc<io::Error>,
    },
    /// A name inside the archive is no image reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// An archive, manifest, configuration or record does not have the form that it should.
    #[error("{what} is malformed: {fault}")]
    Malformed {
        /// Which thing.
        what: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Bytes do not have the digest that names them.
    #[error("{what} is corrupt: its digest is {actual}, expected {expected}")]
    DigestMismatch {
        /// Which thing.
        what: String,
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// No image behind the name runs on the platform.
    #[error("{what} has no image for {wanted}: it has {available}")]
    NoPlatform {
        /// Which index or image.
        what: String,
        /// The platform asked for.
        wanted: String,
        /// The platforms that exist.
        available: String,
    },
    /// A layer was refused or could not be unpacked.
    #[error("layer {layer}: {fault}")]
    Unpack {
        /// The layer's digest, as the manifest names it.
        layer: Digest,
        /// The refusal.
        fault: UnpackError,
    },
    /// The archive holds an image but not its name.
    #[error("{what} holds an image but no name for it: say which reference it shall have")]
    Unnamed {
        /// Which archive.
        what: String,
    },
    /// The image went away between getting and leasing it.
    #[error("{image} is no longer in the store: pull or import it again")]
    Gone {
        /// The image's reference.
        image: String,
    },
    /// A user or group that the image does not know.
    #[error("image {image} has no {kind} {name:?}")]
    UnknownUser {
        /// The image's reference.
        image: String,
        /// `user` or `group`.
        kind: &'static str,
        /// The name or number that was asked for.
        name: String,
    },
    /// A task of ours ended without an answer, as it was cancelled or panicked.
    #[error("{0} was interrupted")]
    Interrupted(String),
}

impl Error {
    pub(crate) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |error| Self::Io { attempt, error: Arc::new(error) }
    }

    /// The same for system calls that answer with an error number.
    pub(crate) fn os(attempt: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let wrap = Self::io(attempt);
        move |errno| wrap(errno.into())
    }

    pub(crate) fn malformed(what: impl Into<String>, fault: impl Display) -> Self {
        Self::Malformed { what: what.into(), fault: fault.to_string() }
    }

    /// Whether trying again cannot help, because the content itself is at fault.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Gone { .. } | Self::Interrupted(_) => false,
            Self::Unpack { fault, .. } => fault.is_permanent(),
            _ => true,
        }
    }
}

/// Why a pull failed.
///
/// The text says what happened, on what, and where it is not plain, what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// The registry does not know the image, or hides it.
    #[error("pull {reference}: {registry} has no such image: {answer}")]
    NotFound {
        /// The image.
        reference: String,
        /// The registry or mirror that answered.
        registry: String,
        /// Its own code and message.
        answer: String,
    },
    /// The registry wants other credentials, or any.
    #[error("pull {reference}: {registry} refused access: {answer}; check the credentials for this registry")]
    Unauthorized {
        /// The image.
        reference: String,
        /// The registry or mirror that answered.
        registry: String,
        /// Its own code and message.
        answer: String,
    },
    /// The registry answered with some other error.
    #[error("pull {reference}: {registry} answered: {answer}")]
    Registry {
        /// The image.
        reference: String,
        /// The registry or mirror that answered.
        registry: String,
        /// The HTTP status, when there was one.
        status: Option<u16>,
        /// Its own status, code and message.
        answer: String,
    },
    /// Nobody answered in time, or the connection broke too often.
    #[error("pull {reference}: {registry} is unreachable: {fault}; check the network, the proxy and mirror settings")]
    Unreachable {
        /// The image.
        reference: String,
        /// The registry or mirror that was tried.
        registry: String,
        /// What failed: name resolution, connection, TLS, a stall.
        fault: String,
    },
    /// What the registry served is not what its digest promised.
    #[error("pull {reference}: {registry} served wrong content: {fault}")]
    DigestMismatch {
        /// The image.
        reference: String,
        /// The registry or mirror that served it.
        registry: String,
        /// What, with both digests.
        fault: String,
    },
    /// No image behind the name runs here, the image is malformed, was refused, or could not be stored.
    #[error("pull {reference}: {error}")]
    Store {
        /// The image.
        reference: String,
        /// What went wrong.
        error: Error,
    },
    /// Every mirror and the registry failed, each in its own way; the registry itself is the last.
    #[error("pull {reference}: no registry served it: {}", list(.attempts))]
    Everywhere {
        /// The image.
        reference: String,
        /// One error per endpoint, in the order of trying.
        attempts: Vec<PullError>,
    },
}

impl PullError {
    /// Whether trying again cannot help until someone changes the reference, the credentials or the image.
    ///
    /// Kubernetes retries all the same (with back-off); a command on a terminal should not.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Unauthorized { .. } => true,
            Self::Registry { status, .. } => status.is_some_and(|s| (400..500).contains(&s) && s != 408 && s != 429),
            Self::Unreachable { .. } | Self::DigestMismatch { .. } => false,
            Self::Store { error, .. } => error.is_permanent(),
            Self::Everywhere { attempts, .. } => attempts.iter().all(Self::is_permanent),
        }
    }
}

fn list(attempts: &[PullError]) -> String {
    let texts: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            let text = attempt.to_string();
            // Each begins with the same "pull <reference>: ".
            text.split_once(": ").map_or(text.clone(), |(_, rest)| rest.to_owned())
        })
        .collect();
    texts.join("; then ")
}
