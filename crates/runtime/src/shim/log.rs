//! The container's output, line by line, into a log file in CRI format:
//! `<RFC 3339 time> stdout|stderr F|P <text>`, where `P` says that the line goes on in the next record.
//!
//! Invariant: memory is bounded (a record holds at most [`MAX_LINE`] bytes of text) and the bytes of the container's
//! output can be put together again exactly: a last line without its end is a `P`. When the file can't be written the
//! output is dropped; the container never waits for a reader, only for the disk. Files end with whole records, see
//! [`Rotation`].

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::rotate::Rotation;

/// The longest text in one record, in bytes, as containerd and CRI-O have it.
pub(crate) const MAX_LINE: usize = 16 * 1024;
/// Records are written to the file when this much is gathered, and after every read.
const BATCH: usize = 32 * 1024;

/// One of the two output streams.
pub(crate) struct Stream {
    name: &'static str,
    /// A line's start, without its end yet.
    pending: Vec<u8>,
}

impl Stream {
    /// `name` is `stdout` or `stderr`.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, pending: Vec::new() }
    }

    /// Whether a line's start waits for its end.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// The log file and the records on their way to it.
pub(crate) struct Log {
    file: OwnedFd,
    /// How much is in the file.
    size: u64,
    rotation: Option<Rotation>,
    batch: Vec<u8>,
    clock: Clock,
}

impl Log {
    /// Into `file`, which is new, and into the next ones if it is to be rotated.
    pub(crate) fn new(file: OwnedFd, rotation: Option<Rotation>) -> Self {
        Self { file, size: 0, rotation, batch: Vec::new(), clock: Clock::default() }
    }

    /// Takes what was read from a stream at `now` (nanoseconds since the epoch).
    pub(crate) fn write(&mut self, stream: &mut Stream, mut data: &[u8], now: u64) {
        self.clock.set(now);
        while !data.is_empty() {
            let room = MAX_LINE - stream.pending.len();
            let line_end = data.iter().take(room + 1).position(|&b| b == b'\n');
            match line_end {
                Some(end) => {
                    self.record(stream.name, b'F', &stream.pending, &data[..end]);
                    stream.pending.clear();
                    data = &data[end + 1..];
                }
                None if data.len() >= room => {
                    self.record(stream.name, b'P', &stream.pending, &data[..room]);
                    stream.pending.clear();
                    data = &data[room..];
                }
                None => {
                    stream.pending.extend_from_slice(data);
                    data = &[];
                }
            }
        }
        self.flush();
    }

    /// Writes a line's start that has waited long enough, or whose end will never come.
    pub(crate) fn flush_pending(&mut self, stream: &mut Stream, now: u64) {
        if stream.is_pending() {
            self.clock.set(now);
            self.record(stream.name, b'P', &stream.pending, b"");
            stream.pending = Vec::new();
            self.flush();
        }
    }

    fn record(&mut self, stream: &str, tag: u8, start: &[u8], end: &[u8]) {
        self.batch.extend_from_slice(self.clock.text());
        let _ = write!(self.batch, " {stream} {} ", char::from(tag));
        self.batch.extend_from_slice(start);
        self.batch.extend_from_slice(end);
        self.batch.push(b'\n');
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(rotation) = &mut self.rotation
            && rotation.is_due(self.size, self.batch.len())
            && let Ok(file) = rotation.begin(self.clock.second)
        {
            (self.file, self.size) = (file, 0);
        }
        let mut rest = &self.batch[..];
        while !rest.is_empty() {
            match rustix::io::write(&self.file, rest) {
                Ok(n) => {
                    self.size += n as u64;
                    rest = &rest[n..];
                }
                Err(Errno::INTR) => {}
                Err(_) => break, // full disk: this output is lost, the container goes on
            }
        }
        self.batch.clear();
    }
}

/// Formats times as RFC 3339 with nanoseconds, in UTC; the date is worked out once a second.
#[derive(Default)]
struct Clock {
    second: u64,
    text: Vec<u8>,
}

impl Clock {
    fn set(&mut self, now: u64) {
        let (second, nanos) = (now / 1_000_000_000, now % 1_000_000_000);
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text.clear();
            let (year, month, day) = date(second / 86_400);
            let (hour, minute, sec) = (second / 3600 % 24, second / 60 % 60, second % 60);
            let _ = write!(self.text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{sec:02}.000000000Z");
        }
        let end = self.text.len() - 1;
        let mut rest = nanos;
        for digit in self.text[end - 9..end].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
    }

    fn text(&self) -> &[u8] {
        &self.text
    }
}

/// The Gregorian date of a day counted from 1970-01-01.
pub(super) fn date(days: u64) -> (u64, u64, u64) {
    // Count from 0000-03-01, so that leap days end a year; eras of 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    const NOW: u64 = 1_700_000_000_123_456_789;

    fn logged(writes: &[(&'static str, &[u8])]) -> String {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = Log::new(file.try_clone().unwrap().into(), None);
        let (mut out, mut err) = (Stream::new("stdout"), Stream::new("stderr"));
        for (name, data) in writes {
            log.write(if *name == "stdout" { &mut out } else { &mut err }, data, NOW);
        }
        log.flush_pending(&mut out, NOW);
        log.flush_pending(&mut err, NOW);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_line_is_one_full_record() {
        assert_eq!(logged(&[("stdout", b"hello\n")]), "2023-11-14T22:13:20.123456789Z stdout F hello\n");
    }

    #[test]
    fn lines_written_in_pieces_are_put_together_per_stream() {
        let text = logged(&[("stdout", b"a"), ("stderr", b"x\n"), ("stdout", b"b\n\nc\n")]);
        let lines: Vec<&str> = text.lines().map(|l| &l[31..]).collect();
        assert_eq!(lines, ["stderr F x", "stdout F ab", "stdout F ", "stdout F c"]);
    }

    #[test]
    fn a_last_line_without_end_is_partial() {
        assert!(logged(&[("stdout", b"no end")]).ends_with(" stdout P no end\n"));
    }

    #[test]
    fn long_lines_are_split_and_keep_every_byte() {
        for len in [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE + 5] {
            let mut data = vec![b'x'; len];
            data.push(b'\n');
            for chunk in [1000, MAX_LINE, 1 << 20] {
                let writes: Vec<(&'static str, &[u8])> = data.chunks(chunk).map(|c| ("stdout", c)).collect();
                let text = logged(&writes);
                let mut back = String::new();
                for line in text.lines() {
                    let (tag, rest) = line[38..].split_at(1);
                    assert!(rest.len() - 1 <= MAX_LINE);
                    back.push_str(&rest[1..]);
                    if tag == "F" {
                        back.push('\n');
                    }
                }
                assert_eq!(back.len(), data.len(), "{len} bytes in pieces of {chunk}");
            }
        }
    }

    #[test]
    fn files_hold_whole_records_and_no_more_than_they_may() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        let wanted = crate::LogRotation { max_size: 100_000, max_files: 100 };
        let rotation = Rotation::new(&name, wanted).unwrap();
        let mut log = Log::new(super::super::rotate::open(&name).unwrap(), Some(rotation));
        let mut out = Stream::new("stdout");
        let lines: Vec<String> = (0..20_000).map(|n| format!("line {n} {}", "x".repeat(n % 50))).collect();
        for piece in lines.join("\n").into_bytes().chunks(7000) {
            log.write(&mut out, piece, NOW);
        }
        log.flush_pending(&mut out, NOW);
        let older = std::fs::read_dir(crate::older_logs(&path)).unwrap();
        let mut files: Vec<_> = older.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.push(path);
        assert!(files.len() > 10);
        let mut back = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.len() <= 100_000 && text.ends_with('\n'), "{}", file.display());
            back.extend(text.lines().map(|record| record[40..].to_owned()));
        }
        assert!(back == lines, "every line, once and in order");
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(20_453), (2025, 12, 31));
        assert_eq!(date(20_454), (2026, 1, 1));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }
}
