//! Pages of lists: which state a page is of, and the token that leads to the next one.
//!
//! ```text
//!   limit=2          ─▶ the newest state, kept ─▶ entries 1 2, token { rv: 7, after 2 }
//!   continue=token   ─▶ state 7: kept | the newest | the newest with later writes undone
//!                       gone: 410, with a token that goes on in the newest state
//! ```
//!
//! Invariant: all pages of one list are of one state, unless the client takes the token of a 410.
//! Upstream: `apiserver/pkg/storage/continue.go`, `apiserver/pkg/storage/etcd3/store.go` (`GetList`), v1.36.
//! Left out: tokens that outlive this process by more than its history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use base64::DecodeError;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use stint_store::{Entry, Revision, Snapshot, Store};

use crate::status::{Error, Result, encode};

/// How long the state of a list is kept after a page of it was sent.
const KEPT_FOR: SignedDuration = SignedDuration::from_mins(5);
/// How many states are kept at most; a kept state holds what was changed since.
const MOST_KEPT: usize = 32;
/// The version of a token's inside.
const VERSION: &str = "meta.k8s.io/v1";
/// How often a state is looked for whose events are just being handed out.
const TRIES: usize = 64;

/// The states of which more pages may be asked for.
#[derive(Debug, Default)]
pub(crate) struct Pages(Mutex<VecDeque<Kept>>);

#[derive(Debug)]
struct Kept {
    snapshot: Snapshot,
    until: Timestamp,
}

/// What a list is taken from.
#[derive(Debug)]
pub(crate) enum State {
    /// The whole store.
    Kept(Snapshot),
    /// The entries under one prefix, in order of their keys.
    Undone(Revision, Vec<Entry>),
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Part {
    /// The state that it is of.
    pub(crate) revision: Revision,
    pub(crate) entries: Vec<Entry>,
    /// How many follow, if any do.
    pub(crate) remaining: usize,
}

impl Pages {
    /// Remembers the state of a list of which only a part was sent.
    pub(crate) fn keep(&self, snapshot: Snapshot, now: Timestamp) {
        let until = now + KEPT_FOR;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.until > now && kept.snapshot.revision() != snapshot.revision());
        if kept.len() == MOST_KEPT {
            kept.pop_front();
        }
        kept.push_back(Kept { snapshot, until });
    }

    /// The state at `revision`, as far as it concerns the entries under `prefix`. None: it is not known any more.
    pub(crate) async fn at(&self, store: &Store, revision: Revision, prefix: &str, now: Timestamp) -> Option<State> {
        if let Some(kept) = self.kept(revision, now) {
            return Some(State::Kept(kept));
        }
        let newest = store.snapshot();
        if newest.revision() == revision {
            return Some(State::Kept(newest));
        }
        undo(store, newest, revision, prefix).await.map(|entries| State::Undone(revision, entries))
    }

    fn kept(&self, revision: Revision, now: Timestamp) -> Option<Snapshot> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.until > now);
        kept.iter().find(|kept| kept.snapshot.revision() == revision).map(|kept| kept.snapshot.clone())
    }
}

/// The entries under `prefix` as they were at an earlier revision, found by undoing what the history holds since.
async fn undo(store: &Store, newest: Snapshot, revision: Revision, prefix: &str) -> Option<Vec<Entry>> {
    let mut watch = store.watch(prefix, revision).ok().filter(|_| revision < newest.revision())?;
    let mut events = Vec::new();
    for _ in 0..TRIES {
        while let Some(event) = watch.try_next() {
            events.push(event.ok()?);
        }
        if watch.revision() >= newest.revision() {
            break;
        }
        // The newest write is visible already, and is on its way to the watches.
        tokio::task::yield_now().await;
    }
    if watch.revision() < newest.revision() {
        return None;
    }
    let mut state: BTreeMap<Arc<str>, Entry> =
        newest.entries(prefix).map(|entry| (entry.key.clone(), entry.clone())).collect();
    for event in events.iter().rev().filter(|event| event.revision <= newest.revision()) {
        match &event.previous {
            None => state.remove(&event.key),
            // Which write that value is of, says the value itself.
            Some(value) => {
                let entry = Entry { key: event.key.clone(), revision, value: value.clone() };
                state.insert(event.key.clone(), entry)
            }
        };
    }
    Some(state.into_values().collect())
}

impl State {
    pub(crate) fn revision(&self) -> Revision {
        match self {
            Self::Kept(snapshot) => snapshot.revision(),
            Self::Undone(revision, _) => *revision,
        }
    }

    /// At most `limit` entries under `prefix` that come after a key and that `selects` takes. Where it takes all, those
    /// that follow are counted; else it is only told whether there are more that it might take.
    pub(crate) fn part(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        selects: Option<&dyn Fn(&Entry) -> bool>,
    ) -> Part {
        let Some(selects) = selects else { return self.page(prefix, after, limit) };
        let mut after = after.map(str::to_owned);
        let mut part = Part { revision: self.revision(), entries: Vec::new(), remaining: 0 };
        loop {
            let missing = limit.saturating_sub(part.entries.len());
            let page = self.page(prefix, after.as_deref(), missing.max(512));
            after = page.entries.last().map(|last| last.key.to_string());
            let fetched = page.entries.len();
            for (at, entry) in page.entries.into_iter().enumerate() {
                if !selects(&entry) {
                    continue;
                }
                part.entries.push(entry);
                if part.entries.len() == limit {
                    part.remaining = page.remaining + fetched - at - 1;
                    return part;
                }
            }
            if page.remaining == 0 {
                return part;
            }
        }
    }

    fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Part {
        match self {
            Self::Kept(snapshot) => {
                let page = snapshot.page(prefix, after, limit);
                let remaining = page.remaining;
                Part { revision: page.listing.revision, entries: page.listing.entries, remaining }
            }
            Self::Undone(revision, entries) => {
                let start = entries.partition_point(|entry| after.is_some_and(|after| *entry.key <= *after));
                let end = start.saturating_add(limit).min(entries.len());
                let remaining = entries.len() - end;
                Part { revision: *revision, entries: entries[start..end].to_vec(), remaining }
            }
        }
    }
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// In which state. None: in the newest, whatever the pages before were of.
    pub(crate) revision: Option<Revision>,
    /// After which key, told without the prefix of the list.
    pub(crate) after: String,
}

#[derive(Serialize, Deserialize)]
struct Inside {
    #[serde(default, rename = "v")]
    version: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

impl Token {
    /// The token as clients have it.
    pub(crate) fn text(&self) -> String {
        let rv = self.revision.map_or(-1, |revision| i64::try_from(revision.0).unwrap_or(i64::MAX));
        let inside = Inside { version: VERSION.into(), rv, start: format!("/{}\0", self.after) };
        BASE64_URL_SAFE_NO_PAD.encode(encode(&inside))
    }

    /// Reads a token that a client has sent.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| Error::BadRequest(format!("invalid continue token: continue key is not valid{why}"));
        let json = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|why| {
            let at = match why {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol { offset: at, .. } => at,
                DecodeError::InvalidLength(length) => length,
                DecodeError::InvalidPadding => text.len(),
            };
            refuse(format!(": illegal base64 data at input byte {at}"))
        })?;
        let inside: Inside = serde_json::from_slice(&json).map_err(|why| refuse(format!(": {why}")))?;
        if inside.version != VERSION {
            return Err(refuse(format!(": server does not recognize this encoded version {}", inside.version)));
        }
        let revision = match inside.rv {
            0 => return Err(refuse(format!(": incorrect encoded start resourceVersion (version {VERSION})"))),
            ..0 => None,
            rv => Some(Revision(rv.unsigned_abs())),
        };
        if inside.start.is_empty() {
            return Err(refuse(format!(": encoded start key empty (version {VERSION})")));
        }
        let after = inside.start.strip_prefix('/').unwrap_or(&inside.start).strip_suffix('\0').unwrap_or_default();
        if after.is_empty() || after.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(refuse(format!(": {}", inside.start)));
        }
        Ok(Self { revision, after: after.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use stint_store::{Mutation, Options};

    use super::*;

    #[test]
    fn a_token_is_read_back() {
        for token in [
            Token { revision: Some(Revision(447)), after: "a".into() },
            Token { revision: None, after: "ns/system:x".into() },
        ] {
            assert_eq!(Token::parse(&token.text()).unwrap(), token);
        }
        let text = Token { revision: Some(Revision(447)), after: "a".into() }.text();
        assert_eq!(text, "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NDQ3LCJzdGFydCI6Ii9hXHUwMDAwIn0");
    }

    #[test]
    fn a_token_that_is_none_is_refused() {
        let inside = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
        for (text, why) in [
            ("a*c".to_owned(), ": illegal base64 data at input byte 1"),
            (inside("{}"), ": server does not recognize this encoded version "),
            (
                inside(r#"{"v":"meta.k8s.io/v1","start":"/a\u0000"}"#),
                ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (inside(r#"{"v":"meta.k8s.io/v1","rv":1}"#), ": encoded start key empty (version meta.k8s.io/v1)"),
            (inside(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"/../a\u0000"}"#), ": /../a\0"),
        ] {
            let expected = format!("invalid continue token: continue key is not valid{why}");
            assert_eq!(Token::parse(&text).unwrap_err().to_string(), expected);
        }
    }

    async fn put(store: &Store, key: &str, value: &str) {
        let value = value.to_owned();
        match store.get(key) {
            None => store.write(Mutation::create(key, move |_| value.into())).await,
            Some(entry) if value == "-" => store.write(Mutation::delete(key, entry.revision, |_| "gone".into())).await,
            Some(entry) => store.write(Mutation::update(key, entry.revision, move |_| value.into())).await,
        }
        .unwrap();
    }

    #[tokio::test]
    async fn an_earlier_state_is_found_while_the_history_reaches_back_to_it() {
        let options = Options { history_events: 5, ..Options::default() };
        let store = Store::open_with(stint_store::MemoryDisk, &options).unwrap();
        let writes = [("a/1", "x"), ("a/2", "x"), ("b/1", "x"), ("a/1", "y"), ("a/2", "-"), ("a/3", "x"), ("a/1", "-")];
        let mut states = vec![store.list("a/").entries];
        for (key, value) in writes {
            put(&store, key, value).await;
            states.push(store.list("a/").entries);
        }
        let told = |entries: &[Entry]| -> Vec<_> { entries.iter().map(|e| (e.key.clone(), e.value.clone())).collect() };
        let pages = Pages::default();
        for (revision, state) in states.iter().enumerate() {
            let at = pages.at(&store, Revision(revision as u64), "a/", Timestamp::UNIX_EPOCH).await;
            let found = at.map(|at| told(&at.part("a/", None, usize::MAX, None).entries));
            assert_eq!(found, (revision >= 2).then(|| told(state)), "{revision}");
        }
    }

    #[tokio::test]
    async fn a_kept_state_is_let_go_after_a_while() {
        let store =
            Store::open_with(stint_store::MemoryDisk, &Options { history_events: 0, ..Options::default() }).unwrap();
        let pages = Pages::default();
        put(&store, "a/1", "x").await;
        let start = Timestamp::UNIX_EPOCH;
        pages.keep(store.snapshot(), start);
        put(&store, "a/2", "x").await;
        let later = start + SignedDuration::from_mins(4);
        let Some(State::Kept(kept)) = pages.at(&store, Revision(1), "a/", later).await else { panic!("it is kept") };
        assert_eq!(kept.count("a/"), 1);
        assert!(pages.at(&store, Revision(1), "a/", start + KEPT_FOR).await.is_none());
    }
}
