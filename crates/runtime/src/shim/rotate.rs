//! Begins a new log file when the current one is full, and lets the oldest go.
//!
//! ```text
//! <log>                          what is written to
//! <log>.older/<log's name>.20060102-150405       full; the oldest comes first by name
//!                         .20060102-150405-001   full in the same second
//! ```
//!
//! Invariants: names ascend, also when the clock was set back. Nothing is written to a file once it has its new name, so who
//! reads it to its end and sees that then has read all of it. Entries are never torn between two files. When no new
//! file can be made (the disk is full) the log goes on in the full one.
//!
//! Upstream: `pkg/kubelet/logs/container_log_manager.go`, v1.36, which also compresses all but the newest of the full ones.
//! Left out: that. It would take a shim's smallness or the daemon's quiet, and reading them would take it again.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::log::date;
use crate::bundle::{LogRotation, older_logs};

/// The files of one container's log.
pub(crate) struct Rotation {
    log: CString,
    /// Where full files go, and the beginning of their names: `<log>.older/<log's name>.`
    folder: CString,
    prefix: Vec<u8>,
    max_size: u64,
    max_older: usize,
    /// The full files, oldest first.
    older: VecDeque<CString>,
    /// The second of the newest full file's name, and which of that second it is.
    last: (u64, u32),
}

impl Rotation {
    pub(crate) fn new(log: &CStr, wanted: LogRotation) -> io::Result<Rotation> {
        let path = Path::new(OsStr::from_bytes(log.to_bytes()));
        let folder = older_logs(path);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let prefix = [folder.as_os_str().as_bytes(), b"/", name.as_bytes(), b"."].concat();
        Ok(Rotation {
            log: log.to_owned(),
            folder: CString::new(folder.into_os_string().into_encoded_bytes())?,
            prefix,
            max_size: wanted.max_size,
            max_older: usize::try_from(wanted.max_files.saturating_sub(1)).unwrap_or(usize::MAX),
            older: VecDeque::new(),
            last: (0, 0),
        })
    }

    /// Whether a file of this size has no room for so many more bytes.
    pub(crate) fn is_due(&self, size: u64, more: usize) -> bool {
        size > 0 && size.saturating_add(more as u64) > self.max_size
    }

    /// Puts the full file aside and makes a new one; `second` counts from the epoch.
    pub(crate) fn begin(&mut self, second: u64) -> rustix::io::Result<OwnedFd> {
        if self.older.is_empty() {
            match rustix::fs::mkdir(&self.folder, Mode::from_raw_mode(0o750)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        let last = if second > self.last.0 { (second, 0) } else { (self.last.0, self.last.1 + 1) };
        let aside = CString::new(name(&self.prefix, last)).map_err(|_| Errno::INVAL)?;
        rustix::fs::rename(&self.log, &aside)?;
        let file = open(&self.log).inspect_err(|_| {
            let _ = rustix::fs::rename(&aside, &self.log);
        })?;
        self.last = last;
        self.older.push_back(aside);
        while self.older.len() > self.max_older
            && let Some(oldest) = self.older.pop_front()
        {
            let _ = rustix::fs::unlink(&oldest);
        }
        Ok(file)
    }
}

/// Opens a log file to append to it, and makes it if it is not there. A link in its place is an error.
pub(crate) fn open(log: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, log, flags, Mode::from_raw_mode(0o640))
}

fn name(prefix: &[u8], (second, number): (u64, u32)) -> Vec<u8> {
    let (year, month, day) = date(second / 86_400);
    let (hour, minute, sec) = (second / 3600 % 24, second / 60 % 60, second % 60);
    let mut name = prefix.to_vec();
    name.extend(format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{sec:02}").as_bytes());
    if number > 0 {
        name.extend(format!("-{number:03}").as_bytes());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECOND: u64 = 1_700_000_000;

    /// Rotates once at each of `seconds`; returns the names of the files, oldest first, with what is in them.
    fn rotated(seconds: &[u64], max_files: u32) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = CString::new(path.as_os_str().as_bytes()).unwrap();
        let mut rotation = Rotation::new(&log, LogRotation { max_size: 10, max_files }).unwrap();
        let mut file = open(&log).unwrap();
        for (number, second) in seconds.iter().enumerate() {
            rustix::io::write(&file, number.to_string().as_bytes()).unwrap();
            file = rotation.begin(*second).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(older_logs(&path)).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let mut all = Vec::new();
        for path in names.iter().chain([&path]) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            all.push((name, fs::read_to_string(path).unwrap()));
        }
        all
    }

    #[test]
    fn full_files_are_named_by_their_time_and_the_oldest_go() {
        let one = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let now = SECOND;
        assert_eq!(
            rotated(&[now, now + 1, now + 1, now + 1, now + 60], 4),
            [
                one("0.log.20231114-221321-001", "2"),
                one("0.log.20231114-221321-002", "3"),
                one("0.log.20231114-221420", "4"),
                one("0.log", ""),
            ]
        );
    }

    #[test]
    fn names_ascend_when_the_clock_is_set_back() {
        let names: Vec<String> =
            rotated(&[SECOND, SECOND - 1000, SECOND - 999], 9).into_iter().map(|one| one.1).collect();
        assert_eq!(names, ["0", "1", "2", ""]);
    }

    #[test]
    fn a_file_that_has_anything_in_it_is_full_when_no_more_fits() {
        let rotation = Rotation::new(c"/x/0.log", LogRotation { max_size: 10, max_files: 2 }).unwrap();
        assert!(!rotation.is_due(0, 100) && !rotation.is_due(5, 5) && rotation.is_due(5, 6));
    }

    #[test]
    fn a_log_is_not_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "").unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("0.log")).unwrap();
        let log = CString::new(dir.path().join("0.log").as_os_str().as_bytes()).unwrap();
        assert_eq!(open(&log).unwrap_err(), Errno::LOOP);
    }
}
