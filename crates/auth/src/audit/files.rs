//! The files of the audit log: the current one, and the older ones beside it.
//!
//! Invariant: a line is in one file as a whole, and there are never more files, and hardly more bytes in one, than asked for.
//! A file that somebody moved away or removed (as logrotate does) is begun again before the next lines. What is no regular
//! file (a pipe, standard output) is written to and never renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Options, STDOUT};

/// How many bytes are handed to the kernel at once.
const BUFFER: usize = 64 << 10;

/// The files of the log.
pub(super) struct Files {
    pub(super) options: Options,
    current: BufWriter<File>,
    bytes: u64,
    /// Which file it is, on its disk. None: it is none that could be renamed.
    id: Option<(u64, u64)>,
}

impl Files {
    pub(super) fn open(options: Options) -> io::Result<Self> {
        let file = open(&options.path)?;
        let about = file.metadata()?;
        let id = about.is_file().then(|| (about.dev(), about.ino()));
        Ok(Self { options, current: BufWriter::with_capacity(BUFFER, file), bytes: about.len(), id })
    }

    /// To be called before lines that are written together.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let Some(id) = self.id else { return Ok(()) };
        let there = fs::metadata(&self.options.path).ok().map(|about| (about.dev(), about.ino()));
        if there == Some(id) { Ok(()) } else { self.open_again() }
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.id.is_some() && self.bytes > 0 && self.bytes + length > self.options.bytes {
            self.rotate()?;
        }
        self.current.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.current.flush()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.current.flush()?;
        let numbered = |number: usize| {
            let mut name = self.options.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let absent_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        for number in (1..self.options.older).rev() {
            absent_is_fine(fs::rename(numbered(number), numbered(number + 1)))?;
        }
        if self.options.older == 0 {
            absent_is_fine(fs::remove_file(&self.options.path))?;
        } else {
            absent_is_fine(fs::rename(&self.options.path, numbered(1)))?;
        }
        self.open_again()
    }

    fn open_again(&mut self) -> io::Result<()> {
        *self = Self::open(self.options.clone())?;
        Ok(())
    }
}

/// Who did what is nobody else's business: only the owner may read the log.
fn open(path: &Path) -> io::Result<File> {
    if path == Path::new(STDOUT) {
        return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
