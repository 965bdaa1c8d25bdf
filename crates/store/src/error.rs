//! What can go wrong in a store. A conflict is no error: it is an [`Outcome`](crate::Outcome).

use std::path::PathBuf;
use std::sync::Arc;

use crate::{DiskError, Revision};

/// Why a store could not be opened, or a mutation could not be carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process holds the data file.
    #[error("the data in {} is in use by another process: stop that one, or choose another data folder", folder.display())]
    InUse {
        /// The folder that holds the data file.
        folder: PathBuf,
    },
    /// The data file was written by a version of Stint that is newer than this one.
    #[error("{} has format {found}, and this version knows formats up to {known}: use the newer version", path.display())]
    NewerFormat {
        /// The data file.
        path: PathBuf,
        /// The format that the file says it has.
        found: i64,
        /// The newest format that this version reads.
        known: i64,
    },
    /// The data file could not be opened or created.
    #[error("cannot open the data file {}", path.display())]
    Open {
        /// The data file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// What the disk holds could not be read, or contradicts itself.
    #[error("cannot load the stored objects")]
    Load(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The writer thread could not be started.
    #[error("cannot start the writer thread")]
    Thread(#[source] Arc<std::io::Error>),
    /// The value could not be encoded (its [`Encode`](crate::Encode) panicked). Nothing was written.
    #[error("cannot encode the new state of {key}")]
    Encode {
        /// The key of the mutation.
        key: Arc<str>,
    },
    /// The commit that carried this mutation failed. Whether it will be there after a restart is unknown.
    #[error("cannot commit the batch that ends at revision {revision}; whether it was written is unknown")]
    Commit {
        /// The last revision of the batch.
        revision: Revision,
        /// What the disk said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier commit failed, so nothing is written any more. This mutation was not.
    #[error("writes are refused until restart, since the commit of revision {revision} failed")]
    Poisoned {
        /// The last revision of the batch that failed.
        revision: Revision,
        /// What the disk said then.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The writer ended before it took this mutation.
    #[error("the store is closed")]
    Closed,
}

/// Shares a cause, so that everyone who waited for a commit can be told.
pub(crate) fn shared(cause: DiskError) -> Arc<dyn std::error::Error + Send + Sync> {
    Arc::from(cause)
}
