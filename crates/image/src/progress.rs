//! Progress: what a pull or an import tells whoever waits for it.

/// Where one layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Not begun: other layers are ahead of it.
    Waiting,
    /// Coming in, and unpacked as it comes.
    Downloading {
        /// Compressed bytes received.
        done: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// All bytes are here; the last of them are being unpacked and flushed.
    Unpacking,
    /// In the store.
    Done,
    /// Was in the store already.
    Cached,
}

/// Receives progress. Calls come from the task that awaits the pull or import, and should return quickly.
pub trait Progress: Send + Sync {
    /// The layer whose compressed blob has this digest is now in this state.
    fn layer(&self, digest: &str, state: LayerState);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn layer(&self, _digest: &str, _state: LayerState) {}
}
