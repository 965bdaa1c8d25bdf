//! The files of one run's log as one stream of entries, oldest first, also while they are rotated.
//!
//! Invariants: what one file holds is read to its end before the next one is begun; a file is left only once it has been put
//! aside, when nothing is written to it any more. No file is skipped unless it was removed before its turn came, as happens to
//! who reads slower than a container writes. No link is followed: who can write to the folder of logs (by a `hostPath`)
//! can't show a client of the API what else the node holds.
//!
//! The kubelet shows the newest file only; here all that is kept is shown.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::logs;

/// How much is looked at at once when the last lines are searched for.
const STRIDE: u64 = 64 * 1024;

/// A log's files.
pub(super) struct Files {
    /// The file that is written to.
    log: PathBuf,
    /// Where the full ones are.
    older: PathBuf,
    /// Full files that were last written to before this time are skipped.
    since: Option<SystemTime>,
    open: Option<(File, Place)>,
    /// Up to which of the full files all was read.
    after: Option<CString>,
}

/// Which file is open.
enum Place {
    /// A full one.
    Full(CString),
    /// The one that is written to, or was when it was opened.
    Current,
    /// The one that was written to; it is full now, and what came last is still to be read.
    Left,
}

impl Files {
    /// The files of the log `log`. Nothing is opened.
    pub(super) fn new(log: PathBuf, since: Option<SystemTime>) -> Files {
        Files { older: stint_runtime::older_logs(&log), log, since, open: None, after: None }
    }

    /// Goes to where the last `lines` lines begin, unless there is no file yet.
    pub(super) fn seek_tail(&mut self, lines: u64) -> io::Result<()> {
        let mut tail = Tail { lines, count: 0, last: true, whole: false };
        let (full, current) = loop {
            let full = self.full()?;
            let current = open(CWD, &self.log)?;
            if full == self.full()? {
                break (full, current);
            }
        };
        let Some(current) = current else { return Ok(()) };
        if let Some(start) = tail.search(&current)? {
            self.after = full.into_iter().next_back();
            return self.begin(current, Place::Current, start);
        }
        for (at, name) in full.iter().enumerate().rev() {
            let Some(file) = self.open_full(name)? else { break }; // removed, and so are those before it
            if let Some(start) = tail.search(&file)? {
                self.after = at.checked_sub(1).map(|before| full[before].clone());
                return self.begin(file, Place::Full(name.clone()), start);
            }
        }
        Ok(())
    }

    fn begin(&mut self, mut file: File, place: Place, start: u64) -> io::Result<()> {
        file.seek(SeekFrom::Start(start))?;
        self.open = Some((file, place));
        Ok(())
    }

    /// Appends what comes next to `buffer`; 0 bytes are the end of the log, for now.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>, most: u64) -> io::Result<usize> {
        loop {
            let Some((mut file, place)) = self.open.take() else {
                if self.open_next()? {
                    continue;
                }
                return Ok(0);
            };
            let size = (&mut file).take(most).read_to_end(buffer)?;
            if size > 0 {
                self.open = Some((file, place));
                return Ok(size);
            }
            match place {
                Place::Current if is_at(&file, CWD, &self.log)? => {
                    self.open = Some((file, place));
                    return Ok(0);
                }
                Place::Current => self.open = Some((file, Place::Left)),
                Place::Full(name) => self.after = Some(name),
                Place::Left => {
                    // If it was removed meanwhile, whatever is there is newer.
                    if let Some(name) = self.name_of(&file)? {
                        self.after = Some(name);
                    }
                }
            }
        }
    }

    /// Opens the file whose turn it is; false, if there is none now.
    fn open_next(&mut self) -> io::Result<bool> {
        loop {
            let full = self.full()?;
            if let Some(name) = full.iter().find(|name| self.after.as_ref().is_none_or(|after| *name > after)) {
                match self.open_full(name)? {
                    Some(file) if self.is_wanted(&file)? => {
                        self.open = Some((file, Place::Full(name.clone())));
                        return Ok(true);
                    }
                    _ => self.after = Some(name.clone()),
                }
                continue;
            }
            let Some(file) = open(CWD, &self.log)? else { return Ok(false) };
            if self.full()? == full {
                self.open = Some((file, Place::Current));
                return Ok(true);
            }
        }
    }

    fn is_wanted(&self, file: &File) -> io::Result<bool> {
        let Some(since) = self.since else { return Ok(true) };
        Ok(file.metadata()?.modified()? >= since)
    }

    /// The names of the full files, oldest first.
    fn full(&self) -> io::Result<Vec<CString>> {
        let folder = match stint_runtime::open_folder(CWD, &self.older) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        for entry in Dir::new(folder)? {
            let name = entry?.file_name().to_owned();
            if !name.as_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open_full(&self, name: &CString) -> io::Result<Option<File>> {
        open(stint_runtime::open_folder(CWD, &self.older)?, Path::new(OsStr::from_bytes(name.as_bytes())))
    }

    /// Under which name a file was put aside.
    fn name_of(&self, file: &File) -> io::Result<Option<CString>> {
        let names = self.full()?;
        if names.is_empty() {
            return Ok(None);
        }
        let folder = stint_runtime::open_folder(CWD, &self.older)?;
        for name in names {
            if is_at(file, &folder, Path::new(OsStr::from_bytes(name.as_bytes())))? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Opens a regular file to read it; `None`, if there is none.
fn open(at: impl rustix::fd::AsFd, path: &Path) -> io::Result<Option<File>> {
    // What is no regular file must not make us wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(at, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(Some(file.into())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", path.display()))),
    }
}

/// Whether `path` is the name of `file`.
fn is_at(file: &File, at: impl rustix::fd::AsFd, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match rustix::fs::statat(at, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (own.dev(), own.ino())),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The search for the last lines, from the newest file to the oldest.
struct Tail {
    lines: u64,
    /// How many lines were found.
    count: u64,
    /// Whether the next entry that is found is the log's last.
    last: bool,
    /// Whether an entry's end was seen: what is behind the log's last newline is still being written.
    whole: bool,
}

impl Tail {
    /// Where in `file` the last lines begin; `None`, if before it.
    fn search(&mut self, file: &File) -> io::Result<Option<u64>> {
        let mut block = Vec::new();
        // The part of an entry whose start lies before what was read so far.
        let mut rest: Vec<u8> = Vec::new();
        let mut at = file.metadata()?.len();
        while at > 0 {
            let size = at.min(STRIDE);
            at -= size;
            block.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
            file.read_exact_at(&mut block, at)?;
            block.append(&mut rest);
            let mut end = block.len();
            while let Some(newline) = block[..end].iter().rposition(|byte| *byte == b'\n') {
                let after = newline + 1;
                // Behind a full file's last newline is nothing.
                if self.whole && after < end && self.is_first_too_old(&block[after..end]) {
                    return Ok(Some(at + end as u64 + 1));
                }
                if !self.whole && self.lines == 0 {
                    return Ok(Some(at + after as u64));
                }
                self.whole = true;
                end = newline;
            }
            rest = block[..end].to_vec();
        }
        if self.whole && !rest.is_empty() && self.is_first_too_old(&rest) {
            return Ok(Some(rest.len() as u64 + 1));
        }
        Ok(None)
    }

    /// Takes the entry before those that were seen; whether it ends a line that is one too many.
    fn is_first_too_old(&mut self, entry: &[u8]) -> bool {
        let partial = logs::split(entry).is_some_and(|entry| entry.partial);
        if partial && !std::mem::take(&mut self.last) {
            return false;
        }
        self.last = false;
        self.count += 1;
        self.count > self.lines
    }
}
