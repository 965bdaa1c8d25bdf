//! Containers' logs: the CRI format, and following a log while it is written.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; `P` says that the text goes on in the next entry.
//!
//! Invariant: [`Follow`] yields every entry once and in order. It ends only when it was told that the container has
//! ended and everything that was written until then was read.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

/// Which of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was read from the container.
    pub time: Timestamp,
    /// From which stream.
    pub stream: Stream,
    /// Whether its line goes on in the next entry of the same stream.
    pub partial: bool,
    /// The text, without the line's end.
    pub bytes: Vec<u8>,
}

/// One entry of a log, as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// When, in RFC 3339; not looked at.
    pub(crate) time: &'a str,
    pub(crate) stream: Stream,
    pub(crate) partial: bool,
    /// Without the line's end.
    pub(crate) text: &'a [u8],
}

/// An entry without its line's end, taken apart; `None` if it is none.
pub(crate) fn split(entry: &[u8]) -> Option<Entry<'_>> {
    let mut parts = entry.splitn(4, |byte| *byte == b' ');
    let time = str::from_utf8(parts.next()?).ok().filter(|time| !time.is_empty())?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; only the first has a meaning.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Entry { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// An entry without its line's end; `None` if it is none.
pub fn parse(entry: &[u8]) -> Option<Line> {
    let Entry { time, stream, partial, text } = split(entry)?;
    Some(Line { time: time.parse().ok()?, stream, partial, bytes: text.to_vec() })
}

/// Reads a log from its beginning and waits for more, until the container has ended.
///
/// It looks at the file from time to time rather than having inotify tell: closing an inotify descriptor waits for the
/// kernel's grace period, some 20 ms on a busy machine, which is more than a short container takes altogether.
pub struct Follow {
    path: PathBuf,
    ended: watch::Receiver<bool>,
    file: Option<File>,
    buffer: Vec<u8>,
    /// How much of the buffer was yielded.
    used: usize,
    /// How long to wait before looking again.
    pause: Duration,
}

/// How soon to look again after something was written; doubled each time that nothing was.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
/// How long a line may lie unread at most: what a person does not notice.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

impl Follow {
    /// Follows the log at `path`, which need not be there yet, until `ended` says true (or its sender is gone) and
    /// everything was read.
    pub fn new(path: impl Into<PathBuf>, ended: watch::Receiver<bool>) -> Follow {
        Follow { path: path.into(), ended, file: None, buffer: Vec::new(), used: 0, pause: SHORTEST_PAUSE }
    }

    /// The next entry; `None` at the end. Text that is no entry is skipped. May be dropped and called again.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            while let Some(line) = self.buffered() {
                if let Some(line) = parse(&line) {
                    return Ok(Some(line));
                }
            }
            // Asked before the read: what was written before the end is read after it.
            let over = *self.ended.borrow() || self.ended.has_changed().is_err();
            if self.read()? > 0 {
                self.pause = SHORTEST_PAUSE;
                continue;
            }
            if over {
                let rest = self.buffer.split_off(self.used);
                (self.buffer, self.used) = (Vec::new(), 0);
                return Ok(parse(&rest));
            }
            self.wait().await;
        }
    }

    /// The next whole line of the buffer.
    fn buffered(&mut self) -> Option<Vec<u8>> {
        let rest = &self.buffer[self.used..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = rest[..end].to_vec();
        self.used += end + 1;
        Some(line)
    }

    fn read(&mut self) -> io::Result<usize> {
        const CHUNK: u64 = 64 * 1024;
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        self.buffer.drain(..self.used);
        self.used = 0;
        file.take(CHUNK).read_to_end(&mut self.buffer)
    }

    /// Until there may be more.
    async fn wait(&mut self) {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::select! { _ = self.ended.changed() => {}, () = tokio::time::sleep(pause) => {} }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn entries_are_parsed_or_skipped() {
        let line = parse(b"2026-01-02T03:04:05.123456789Z stderr P:x some text ").unwrap();
        assert_eq!((line.stream, line.partial, line.bytes.as_slice()), (Stream::Stderr, true, &b"some text "[..]));
        assert_eq!(line.time.to_string(), "2026-01-02T03:04:05.123456789Z");
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F ").unwrap().bytes, b"");
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F").unwrap().bytes, b"");
        for bad in [&b""[..], b"x stdout F y", b"2026-01-02T03:04:05Z std F y", b"2026-01-02T03:04:05Z stdout Q y"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[tokio::test]
    async fn a_log_is_followed_to_its_end_without_loss() {
        const LINES: usize = 5000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let (end, ended) = watch::channel(false);
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut file = File::create(path).unwrap();
                for n in 0..LINES {
                    // In two writes, so that half lines are seen.
                    file.write_all(b"2026-01-02T03:04:05Z stdout F li").unwrap();
                    file.write_all(format!("ne {n}\n").as_bytes()).unwrap();
                    if n % 1000 == 0 {
                        std::thread::sleep(Duration::from_millis(3));
                    }
                }
                let at = std::time::Instant::now();
                end.send(true).unwrap();
                at
            })
        };
        let mut follow = Follow::new(&path, ended);
        let mut seen = 0;
        while let Some(line) = follow.next().await.unwrap() {
            assert_eq!(line.bytes, format!("line {seen}").into_bytes());
            seen += 1;
        }
        let late = writer.join().unwrap().elapsed();
        assert_eq!(seen, LINES);
        assert!(late < Duration::from_mins(1), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_never_appears_ends_with_its_container() {
        let (end, ended) = watch::channel(false);
        let mut follow = Follow::new("/nonexistent/0.log", ended);
        let told = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(end);
        });
        assert_eq!(follow.next().await.unwrap(), None);
        told.await.unwrap();
    }
}
