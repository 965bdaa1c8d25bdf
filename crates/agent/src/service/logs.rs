//! A container's log as a client sees it: which run, from where, in which form.
//!
//! Invariant: the text of every entry that the options let through comes once and in order, also while the log grows.
//! Memory is bounded by one piece of a file and one line, whatever the log's size. Which run a log is of is
//! decided once, by the pod's status at the time of the call; a followed log ends with that run, and a restart does not
//! go on in it.
//!
//! `tailLines` counts lines: one that was logged in pieces is one. (The kubelet counts pieces, but its runtimes make
//! them of very long lines only.)
//!
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`validateContainerLogStatus`) and `cri-client/pkg/logs/logs.go`, v1.36.

mod files;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use stint_core::pod::Attempt;

use super::{ContainerRef, Run, Service, ServiceError};
use crate::folder::PodFolder;
use crate::logs::{self, Stream};
use crate::worker::container_id;
use files::Files;

/// How much of the file is read at once.
const PIECE: u64 = 256 * 1024;
/// How soon to look again after something was written; doubled each time that nothing was.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
/// How long a line may lie unread at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// Which part of a log, and in which form; the members are those of `v1.PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether to go on while the container runs.
    pub follow: bool,
    /// Of the run before the current one.
    pub previous: bool,
    /// Only what was written at this time or later.
    pub since: Option<Timestamp>,
    /// Whether each line starts with its time and a space.
    pub timestamps: bool,
    /// Only so many lines from the end; 0 gives none but what follows.
    pub tail_lines: Option<u64>,
    /// The log ends after so many bytes, in the middle of a line if need be.
    pub limit_bytes: Option<u64>,
    /// Which of the container's outputs.
    pub stream: LogSource,
}

/// Which of a container's outputs a log shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogSource {
    /// Both, as they came.
    #[default]
    All,
    /// Standard output only.
    Stdout,
    /// Standard error only.
    Stderr,
}

/// The bytes of a log, in pieces of any size. An error ends it.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

impl Service {
    /// A container's log. It is read as fast as the stream is.
    pub async fn logs(&self, container: &ContainerRef, options: LogOptions) -> Result<LogStream, ServiceError> {
        let pod = self.pod(&container.pod).await?;
        let attempt = run_of(&pod, &container.container, options.previous).map_err(ServiceError::BadRequest)?;
        let internal = |error: crate::Error| ServiceError::Internal(error.chain());
        let folder = PodFolder::new(&self.shared.config.folders, &container.pod.uid).map_err(internal)?;
        let id = container_id(&container.pod.uid, &container.container, attempt).map_err(internal)?;
        let run = Run { folder, id, attempt };
        self.log_of(&run, &container.container, &options).map_err(|error| {
            ServiceError::Internal(format!("failed to read the log of container {:?}: {error}", container.container))
        })
    }

    /// The log of one run. What the last lines are is decided at once.
    pub(super) fn log_of(&self, run: &Run, container: &str, options: &LogOptions) -> io::Result<LogStream> {
        let mut reader = Reader::new(run.folder.log(container, run.attempt), options);
        reader.open()?;
        let ended: BoxFuture<'static, ()> = if options.follow {
            let (runtime, id) = (self.shared.runtime.clone(), run.id.clone());
            // An error means that the runtime does not know it any more: it has ended.
            Box::pin(async move { drop(runtime.wait(&id).await) })
        } else {
            Box::pin(std::future::ready(()))
        };
        Ok(read(reader, ended))
    }
}

/// Which run of a container the log is of; else the kubelet's words for why there is none.
fn run_of(pod: &Pod, container: &str, previous: bool) -> Result<Attempt, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let fault = |what: &str| format!("container {container:?} in pod {name:?} {what}");
    let status = pod.status.as_ref();
    let all = status.map(|status| {
        let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten()
    });
    let found = all.and_then(|mut all| all.find(|status| status.name == container));
    let Some(ContainerStatus { state, last_state, container_id, .. }) = found else {
        return Err(fault("is not available"));
    };
    let attempt = |id: &Option<String>| {
        let (_, number) = id.as_deref()?.rsplit_once('_')?;
        number.parse().ok().map(Attempt)
    };
    let last = last_state.as_ref().and_then(|last| attempt(&last.terminated.as_ref()?.container_id));
    if previous {
        return last.ok_or_else(|| format!("previous terminated container {container:?} in pod {name:?} not found"));
    }
    let state = state.clone().unwrap_or_default();
    if state.running.is_some() {
        return attempt(container_id).ok_or_else(|| fault("is waiting to start - no logs yet"));
    }
    if let Some(terminated) = &state.terminated {
        // The next one did not even start.
        return attempt(&terminated.container_id).or(last).ok_or_else(|| fault("is terminated"));
    }
    if let Some(last) = last {
        return Ok(last);
    }
    let reason = state.waiting.and_then(|waiting| waiting.reason);
    Err(match reason.as_deref() {
        Some("ErrImagePull") => fault("is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => fault("is waiting to start: trying and failing to pull image"),
        Some(reason) => fault(&format!("is waiting to start: {reason}")),
        None => fault("is waiting to start - no logs yet"),
    })
}

/// Everything that `reader` yields until `ended` resolves and the rest was read.
fn read(reader: Reader, ended: BoxFuture<'static, ()>) -> LogStream {
    let state = Reading { reader: Some(reader), ended: Some(ended), pause: SHORTEST_PAUSE };
    stream::unfold(state, |mut state| async move {
        let piece = state.next().await.transpose()?;
        if piece.is_err() {
            state.reader = None;
        }
        Some((piece, state))
    })
    .boxed()
}

struct Reading {
    /// None at the end.
    reader: Option<Reader>,
    /// None once it has resolved.
    ended: Option<BoxFuture<'static, ()>>,
    pause: Duration,
}

impl Reading {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            // The disk may make us wait: not on a thread that serves everybody.
            let task = tokio::task::spawn_blocking(move || (reader.piece(), reader));
            let (piece, reader) = task.await.map_err(io::Error::other)?;
            let piece = piece?;
            if !reader.shown.is_full() {
                self.reader = Some(reader);
            }
            match piece {
                Piece::Text(text) if text.is_empty() => {} // everything in it was left out
                Piece::Text(text) => {
                    self.pause = SHORTEST_PAUSE;
                    return Ok(Some(Bytes::from(text)));
                }
                Piece::NoMore => match &mut self.ended {
                    None => return Ok(None),
                    Some(ended) => {
                        let pause = self.pause;
                        self.pause = (pause * 2).min(LONGEST_PAUSE);
                        // What was written before the end is read after it.
                        tokio::select! { () = ended => self.ended = None, () = tokio::time::sleep(pause) => {} }
                    }
                },
            }
        }
    }
}

enum Piece {
    /// What a piece of the file became; may be empty.
    Text(Vec<u8>),
    /// The end of the file, for now.
    NoMore,
}

/// Reads a log's files and puts their entries into form.
struct Reader {
    files: Files,
    /// How many lines from the end, as long as there was no file.
    tail: Option<u64>,
    /// The start of an entry without its end.
    buffer: Vec<u8>,
    shown: Shown,
}

impl Reader {
    fn new(path: PathBuf, options: &LogOptions) -> Reader {
        let files = Files::new(path, options.since.map(SystemTime::from));
        Reader { files, tail: options.tail_lines, buffer: Vec::new(), shown: Shown::new(options) }
    }

    /// Goes to where to begin, if that is from the end.
    fn open(&mut self) -> io::Result<()> {
        self.tail.take().map_or(Ok(()), |lines| self.files.seek_tail(lines))
    }

    fn piece(&mut self) -> io::Result<Piece> {
        self.open()?;
        let seen = self.buffer.len();
        if self.files.read(&mut self.buffer, PIECE)? == 0 {
            return Ok(Piece::NoMore);
        }
        let mut text = Vec::with_capacity(self.buffer.len());
        let mut used = 0;
        // What was seen before has no line's end.
        let mut from = seen;
        while let Some(end) = self.buffer[from..].iter().position(|byte| *byte == b'\n') {
            self.shown.take(&self.buffer[used..from + end], &mut text);
            from += end + 1;
            used = from;
        }
        self.buffer.drain(..used);
        Ok(Piece::Text(text))
    }
}

/// Puts entries into the form that was asked for.
struct Shown {
    stream: LogSource,
    since: Option<(Timestamp, String)>,
    timestamps: bool,
    /// How many bytes may still come.
    left: Option<u64>,
    /// Whether the next text begins a line.
    fresh: bool,
}

impl Shown {
    fn new(options: &LogOptions) -> Shown {
        Shown {
            stream: options.stream,
            since: options.since.map(|since| (since, format!("{since:.9}"))),
            timestamps: options.timestamps,
            left: options.limit_bytes,
            fresh: true,
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn take(&mut self, entry: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = logs::split(entry) else { return };
        let wanted = match self.stream {
            LogSource::All => true,
            LogSource::Stdout => entry.stream == Stream::Stdout,
            LogSource::Stderr => entry.stream == Stream::Stderr,
        };
        if self.is_full() || !wanted || self.is_too_old(entry.time) {
            return;
        }
        let start = out.len();
        if self.timestamps && self.fresh {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        // A piece without text, as the last of a long line may be, leaves the line's state as it is.
        if !entry.partial || !entry.text.is_empty() {
            self.fresh = !entry.partial;
        }
        if let Some(left) = &mut self.left {
            let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len() - start);
            out.truncate(start + fits);
            *left -= fits as u64;
        }
    }

    /// Times as our logs have them compare as text does.
    fn is_too_old(&self, time: &str) -> bool {
        let Some((since, text)) = &self.since else { return false };
        if time.len() == text.len() && time.ends_with('Z') {
            return time < text.as_str();
        }
        time.parse::<Timestamp>().is_ok_and(|time| time < *since)
    }
}

#[cfg(test)]
mod tests;
