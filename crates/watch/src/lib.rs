//! A watch that never ends: kube's watcher with our delays between attempts, and errors said once, here.
//!
//! ```text
//!            error: said, wait 100 ms              the same error: wait twice as long, up to 25.6 s
//!   whole ───────────────────────────────► broken ──┐
//!     ▲                                     │  ▲    │
//!     └─────────────────────────────────────┘  └────┘
//!       a whole list, a change, or a minute without an error
//! ```
//!
//! Invariant: only what the API has shown makes a watch whole again. That a list begins says nothing: of a kind that is not
//! served every attempt begins with it.

use std::fmt::{Debug, Display};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use http::{Request, Uri};
use kube::client::Body;
use kube::runtime::watcher::{self, Error, Event, InitialListStrategy, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

/// A watch that has not broken for so long works, also when nothing happens that it could show.
const QUIET: Duration = Duration::from_mins(1);

/// How many objects of a list are taken in at once: with all of their members they are far larger than what is remembered of
/// them, and several watches begin at the same time.
const PAGE: u32 = 100;

/// How long a watch of an API far away lasts, in seconds. Of a connection that was lost without a word nothing else tells.
const FAR_AWAY: u32 = 60;

/// How the first list of a watch is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// In pages: from an API that is near.
    Pages,
    /// As events of the watch itself (KEP-3157), which costs an API far away least; in pages where it does not know of that.
    Streams,
}

impl Lists {
    /// The watch of everything that begins so.
    pub fn first(self) -> watcher::Config {
        match self {
            Lists::Pages => watcher::Config::default(),
            Lists::Streams => watcher::Config::default().timeout(FAR_AWAY).streaming_lists(),
        }
    }
}

/// A client whose streamed lists are most recent. kube asks for any state that the API server has at hand, which may be older
/// than what was seen before.
pub fn most_recent(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        if let Some(uri) = without_any_state(request.uri()) {
            *request.uri_mut() = uri;
        }
        let client = client.clone();
        async move { client.send(request).await }
    });
    Client::new(service, namespace)
}

/// The same request for the most recent state, if `uri` streams a list of any.
fn without_any_state(uri: &Uri) -> Option<Uri> {
    let query = uri.query().filter(|query| query.split('&').any(|pair| pair == "sendInitialEvents=true"))?;
    let kept: Vec<&str> = query.split('&').filter(|pair| *pair != "resourceVersion=0").collect();
    format!("{}?{}", uri.path(), kept.join("&")).parse().ok()
}

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
    let paged = watcher::Config { initial_list_strategy: InitialListStrategy::ListWatch, ..config.clone() };
    let pages = watcher(api.clone(), paged.page_size(PAGE));
    if config.initial_list_strategy == InitialListStrategy::ListWatch {
        return patient(pages.boxed(), what).left_stream();
    }
    patient(or_pages(watcher(api, config).boxed(), pages.boxed()), what).right_stream()
}

/// The events of `streamed`, or of `paged` from when on the API does not know how to stream lists.
fn or_pages<S: Stream<Item = watcher::Result<Event<K>>> + Unpin + Send, K: Send>(
    streamed: S,
    paged: S,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    stream::unfold((streamed, Some(paged)), |(mut source, mut paged)| async move {
        let mut event = source.next().await?;
        let is_unheard_of = matches!(&event, Err(Error::WatchStartFailed(kube::Error::Api(status)))
            if matches!(status.code, 400 | 422));
        if is_unheard_of && let Some(paged) = paged.take() {
            tracing::debug!("the API does not stream lists; they are read in pages");
            source = paged;
            event = source.next().await?;
        }
        Some((event, (source, paged)))
    })
}

/// The same event, of what `part` makes of its object.
pub fn map<K, L>(event: Event<K>, part: impl FnOnce(K) -> L) -> Event<L> {
    match event {
        Event::Apply(object) => Event::Apply(part(object)),
        Event::Delete(object) => Event::Delete(part(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(part(object)),
        Event::InitDone => Event::InitDone,
    }
}

/// The events of `source`, which is asked again after an error, later each time.
fn patient<K, E>(
    source: impl Stream<Item = Result<Event<K>, E>> + Send,
    what: String,
) -> impl Stream<Item = Event<K>> + Send
where
    K: Send,
    E: Display + Send,
{
    let health = Health { what, trouble: None };
    stream::unfold((Box::pin(source), health), |(mut source, mut health)| async move {
        loop {
            match source.next().await? {
                Ok(event) => {
                    if matches!(event, Event::InitDone | Event::Apply(_) | Event::Delete(_)) {
                        health.works();
                    }
                    return Some((event, (source, health)));
                }
                Err(error) => {
                    let delay = health.broke(error.to_string(), Instant::now());
                    sleep(delay).await;
                }
            }
        }
    })
}

/// Whether a watch works.
#[derive(Debug)]
struct Health {
    what: String,
    /// `None` while it works.
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    error: String,
    /// How often in a row, at least 1.
    failures: u32,
    /// When the next attempt begins.
    until: Instant,
}

impl Health {
    /// The watch failed at `now`: says so if that is news, and returns how long to wait before the next attempt.
    fn broke(&mut self, error: String, now: Instant) -> Duration {
        let before = self.trouble.take().filter(|trouble| now < trouble.until + QUIET);
        let failures = before.as_ref().map_or(1, |trouble| trouble.failures.saturating_add(1));
        // No jitter: few watch one API.
        let delay = Duration::from_millis(100 << (failures - 1).min(8));
        let what = &self.what;
        if before.is_none_or(|trouble| trouble.error != error) {
            tracing::warn!(error, "the watch of {what} broke; it goes on from the last revision or a fresh list");
        } else {
            tracing::debug!(error, failures, "the watch of {what} is still broken");
        }
        self.trouble = Some(Trouble { error, failures, until: now + delay });
        delay
    }

    /// The API has shown something.
    fn works(&mut self) {
        let Some(trouble) = self.trouble.take().filter(|trouble| trouble.failures > 1) else { return };
        tracing::info!(failures = trouble.failures, "the watch of {} works again", self.what);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    /// When each of `items` was asked for, in milliseconds.
    async fn asked(items: Vec<Result<Event<Pod>, String>>) -> Vec<u128> {
        let start = Instant::now();
        let mut times = Vec::new();
        let mut items = VecDeque::from(items);
        let source = stream::poll_fn(|_| {
            times.push(start.elapsed().as_millis());
            std::task::Poll::Ready(items.pop_front())
        });
        patient(source, "pods".to_owned()).collect::<Vec<_>>().await;
        times
    }

    /// A watcher begins every attempt by saying that a list begins, and that was taken for a success: a kind that was not
    /// served was asked for, and complained about, ten times a second.
    #[tokio::test(start_paused = true)]
    async fn a_list_that_only_begins_is_no_success() {
        let attempt = || [Ok(Event::Init), Err("not found".to_owned())];
        let times = asked((0..11).flat_map(|_| attempt()).collect()).await;
        let begun: Vec<u128> = times.iter().copied().step_by(2).collect();
        let delays: Vec<u128> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 25_600, 25_600]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_api_shows_ends_the_delays() {
        let broken = || Err("gone".to_owned());
        for shown in [Event::InitDone, Event::Apply(Pod::default()), Event::Delete(Pod::default())] {
            let times = asked(vec![broken(), broken(), Ok(shown), broken()]).await;
            assert_eq!(times, [0, 100, 300, 300, 400]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_in_a_row_only_within_a_minute() {
        let mut health = Health { what: "pods".to_owned(), trouble: None };
        let start = Instant::now();
        let mut broke = |error: &str, seconds| {
            health.broke(error.to_owned(), start + Duration::from_secs(seconds));
            health.trouble.as_ref().map(|trouble| trouble.failures)
        };
        assert_eq!(broke("gone", 0), Some(1));
        assert_eq!(broke("gone", 30), Some(2));
        assert_eq!(broke("gone", 100), Some(1), "it worked for a minute");
    }
    #[test]
    fn a_streamed_list_is_the_most_recent_one() {
        let asked = |uri: &str| without_any_state(&uri.parse().unwrap()).map(|uri| uri.to_string());
        let streamed = "/api/v1/pods?&watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersion=0";
        let recent = "/api/v1/pods?&watch=true&allowWatchBookmarks=true&sendInitialEvents=true";
        assert_eq!(asked(streamed).as_deref(), Some(recent));
        for other in ["/api/v1/pods?watch=true&resourceVersion=0", "/api/v1/pods"] {
            assert_eq!(asked(other), None);
        }
    }

    #[tokio::test]
    async fn where_lists_are_not_streamed_they_are_read_in_pages() {
        let refusal = |code| {
            let status = kube::core::Status::failure("sendInitialEvents is forbidden", "Invalid").with_code(code);
            Err(Error::WatchStartFailed(kube::Error::Api(status.boxed())))
        };
        let pages = || stream::iter([Ok(Event::<Pod>::Init), Ok(Event::InitDone)]);
        for (code, events) in [(422, 2), (400, 2), (403, 1)] {
            let streamed = stream::iter([refusal(code)]);
            let shown: Vec<_> = or_pages(streamed.boxed(), pages().boxed()).collect().await;
            assert_eq!(shown.len(), events, "{code}");
            assert_eq!(shown.iter().all(Result::is_ok), events == 2, "{code}");
        }
    }
}
