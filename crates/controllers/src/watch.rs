//! A watch that never ends: kube's watcher with our delays between attempts and errors said once, here.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Watches what `api` holds, from a most-recent first list on, for ever.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watch_with(api, config, format!("{}s", K::kind(&())))
}

/// The same for a kind that is known only at run time; `what` names it in the log.
pub fn watch_with<K>(api: Api<K>, config: watcher::Config, what: String) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).backoff(Delays::default()).filter_map(move |event| {
        if let Err(error) = &event {
            tracing::warn!(%error, "the watch of {what} broke; it starts again from a fresh list or the last revision");
        }
        future::ready(event.ok())
    })
}

/// 100 ms, doubled with each failure in a row up to 25.6 s. No jitter: there is one controller for one API.
#[derive(Debug, Default)]
struct Delays {
    failures: u32,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = Duration::from_millis(100 << self.failures);
        self.failures = (self.failures + 1).min(8);
        Some(delay)
    }
}

impl Backoff for Delays {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
