//! Archives to import from: a folder, or a tar archive in which members are found by name.
//!
//! A tar archive is read through once to find its members; a compressed one, or one that comes through a pipe, is first
//! written out plainly into the work folder, because what describes the layers often stands after them. Members' names
//! are only looked up, never made into paths of this machine.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::compression::{decompress, is_plain};
use crate::error::Error;
use crate::folder::{Work, open_folder};
use crate::import::Source;
use crate::member::{Fault, Kind, Members, show};
use crate::unpack::Limits;

/// Something to import from.
pub(crate) struct Archive {
    /// Its name for messages.
    what: String,
    form: Form,
}

enum Form {
    Folder(OwnedFd),
    Tar { file: Arc<File>, members: HashMap<String, Place> },
}

enum Place {
    File { offset: u64, size: u64 },
    Link(String),
}

/// A part of an archive: its bytes can be read by any thread.
pub(crate) struct Part {
    file: Arc<File>,
    offset: u64,
    remaining: u64,
}

impl Archive {
    pub(crate) fn open(source: Source, work: &Work, limits: Limits) -> Result<Self, Error> {
        match source {
            Source::Path(path) => Self::open_path(&path, work, limits),
            Source::Reader(reader) => {
                let what = "the archive".to_owned();
                let file = write_out(&what, BufReader::new(reader), work, limits)?;
                Self::of_tar(what, file)
            }
        }
    }

    fn open_path(path: &Path, work: &Work, limits: Limits) -> Result<Self, Error> {
        let what = path.display().to_string();
        let failed = || Error::io(format!("open {what}"));
        if path.metadata().map_err(failed())?.is_dir() {
            // The person who imports may name a link to a folder; inside it, links stay inside.
            let path = path.canonicalize().map_err(failed())?;
            return Ok(Self { what, form: Form::Folder(open_folder(&path)?) });
        }
        let mut file = File::open(path).map_err(failed())?;
        let mut magic = [0; 4];
        let is_seekable = file.stream_position().is_ok();
        let is_plain = is_seekable && file.read_at(&mut magic, 0).is_ok_and(|length| is_plain(&magic[..length]));
        if !is_plain {
            file = write_out(&what, BufReader::with_capacity(128 << 10, file), work, limits)?;
        }
        Self::of_tar(what, file)
    }

    fn of_tar(what: String, file: File) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("read {what}"))(error);
        let end = file.metadata().map_err(failed)?.len();
        let mut found = HashMap::new();
        let mut members = Members::new(BufReader::with_capacity(64 << 10, file.try_clone().map_err(failed)?));
        members.get_mut().rewind().map_err(failed)?;
        loop {
            let member = members.next().map_err(|fault| match fault {
                Fault::Format(fault) => Error::malformed(&*what, fault),
                Fault::Read(error) => failed(error),
            })?;
            let Some(member) = member else { break };
            let place = match member.kind {
                Kind::File if member.sparse.is_none() => {
                    let offset = members.get_mut().stream_position().map_err(failed)?;
                    if end < offset.saturating_add(member.size) {
                        return Err(Error::malformed(&*what, format!("it ends inside {:?}", show(&member.path))));
                    }
                    Place::File { offset, size: member.size }
                }
                Kind::Symlink => Place::Link(beside(&name_of(&member.path), &name_of(&member.link))),
                Kind::HardLink => Place::Link(clean(&name_of(&member.link))),
                _ => continue,
            };
            found.insert(clean(&name_of(&member.path)), place);
            if found.len() > 1_000_000 {
                return Err(Error::malformed(&*what, "it has more than a million members"));
            }
            members.jump(BufReader::seek_relative).map_err(failed)?;
        }
        Ok(Self { what, form: Form::Tar { file: Arc::new(file), members: found } })
    }

    /// Its name for messages.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// A part by its name and its size. `None` if there is none.
    pub(crate) fn part(&self, name: &str) -> Result<Option<(Part, u64)>, Error> {
        match &self.form {
            Form::Folder(folder) => {
                let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let attempt = || format!("read {name:?} of {}", self.what);
                let file = match rustix::fs::openat2(folder, name, flags, Mode::empty(), how) {
                    Ok(file) => file,
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(errno) => return Err(Error::os(attempt())(errno)),
                };
                let stat = rustix::fs::fstat(&file).map_err(Error::os(attempt()))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Error::malformed(&*self.what, format!("{name:?} is no file")));
                }
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                Ok(Some((Part { file: Arc::new(File::from(file)), offset: 0, remaining: size }, size)))
            }
            Form::Tar { file, members } => {
                let mut name = clean(name);
                for _ in 0..8 {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Place::Link(target)) => name.clone_from(target),
                        Some(Place::File { offset, size }) => {
                            return Ok(Some((
                                Part { file: Arc::clone(file), offset: *offset, remaining: *size },
                                *size,
                            )));
                        }
                    }
                }
                Err(Error::malformed(&*self.what, format!("{name:?} leads through too many links")))
            }
        }
    }

    /// A part that has to be there, whole, of at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        self.find(name, limit)?.ok_or_else(|| Error::malformed(&*self.what, format!("it lacks {name:?}")))
    }

    /// The same, where it may be absent.
    pub(crate) fn find(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some((mut part, size)) = self.part(name)? else {
            return Ok(None);
        };
        if size > limit {
            return Err(Error::malformed(&*self.what, format!("{name:?} is larger than {limit} bytes")));
        }
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes).map_err(Error::io(format!("read {name:?} of {}", self.what)))?;
        Ok(Some(bytes))
    }
}

impl Part {
    /// Whether it is not compressed.
    pub(crate) fn is_plain(&self) -> bool {
        let mut magic = [0; 4];
        self.file.read_at(&mut magic, self.offset).is_ok_and(|length| is_plain(&magic[..length]))
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += length as u64;
        self.remaining -= length as u64;
        Ok(length)
    }
}

/// Writes an archive out plainly. The file has no name outside the work folder, and goes with it.
fn write_out(what: &str, input: impl io::BufRead, work: &Work, limits: Limits) -> Result<File, Error> {
    let path: PathBuf = work.fresh();
    let failed = |error| Error::io(format!("decompress {what}"))(error);
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
    let plain = decompress(input).map_err(failed)?;
    let written = io::copy(&mut plain.take(limits.bytes), &mut file).map_err(failed)?;
    if written == limits.bytes {
        let fault = format!("it decompresses to more than {} bytes, which is the configured limit", limits.bytes);
        return Err(Error::malformed(what, fault));
    }
    Ok(file)
}

fn name_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name without `.`, with `..` resolved by text: it is only a key.
fn clean(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What a symbolic link beside a member points to.
fn beside(member: &str, target: &str) -> String {
    let folder = member.rsplit_once('/').map_or("", |(folder, _)| folder);
    clean(&format!("{folder}/{target}"))
}
