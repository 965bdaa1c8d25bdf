//! Looking into an image without mounting it: one file, as the overlay of its layers would show it.
//!
//! Every step opens a single name in folders that are already open, and follows no link; links are followed here, by
//! name, from the image's own root. So no path leads out of the layers, whatever they hold.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::unpack::{is_opaque, is_whiteout_stat};

const MOST_LINKS: u32 = 40;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder of the merged image: the layers' folders that make it up, the topmost first.
type Merged = Vec<OwnedFd>;

enum Found {
    Folder(Merged),
    File(OwnedFd),
    Link(Vec<u8>),
}

/// Reads a regular file of at most `limit` bytes. `None` if there is none; an error if it is larger, or if reading fails.
pub(crate) fn read(layers: &[PathBuf], path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open(layers, path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

fn open(layers: &[PathBuf], path: &str) -> io::Result<Option<OwnedFd>> {
    let root = |layers: &[PathBuf]| -> io::Result<Merged> {
        let open = |layer: &Path| rustix::fs::openat(CWD, layer, FOLDER, Mode::empty());
        let mut merged = Vec::new();
        for layer in layers {
            let folder = open(layer)?;
            let opaque = is_opaque(folder.as_fd());
            merged.push(folder);
            if opaque {
                break;
            }
        }
        Ok(merged)
    };
    let parts = |path: &[u8]| -> Vec<Vec<u8>> { path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect() };
    let mut rest: VecDeque<Vec<u8>> = parts(path.as_bytes()).into();
    let mut links = 0;
    let mut above: Vec<Merged> = Vec::new();
    let mut here = root(layers)?;
    while let Some(name) = rest.pop_front() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                if let Some(parent) = above.pop() {
                    here = parent;
                }
                continue;
            }
            _ => {}
        }
        match look_up(&here, &name)? {
            Some(Found::Folder(folder)) => above.push(std::mem::replace(&mut here, folder)),
            Some(Found::File(file)) if rest.iter().all(Vec::is_empty) => return Ok(Some(file)),
            None | Some(Found::File(_)) => return Ok(None),
            Some(Found::Link(target)) => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.starts_with(b"/") {
                    above.clear();
                    here = root(layers)?;
                }
                for part in parts(&target).into_iter().rev() {
                    rest.push_front(part);
                }
                // Links to links of 4 KiB each must not pile up.
                if rest.len() > 8192 {
                    return Err(Errno::NAMETOOLONG.into());
                }
            }
        }
    }
    Ok(None) // a folder
}

/// What a name in a merged folder is. Special files count as absent.
fn look_up(folder: &Merged, name: &[u8]) -> io::Result<Option<Found>> {
    let mut merged = Merged::new();
    for layer in folder {
        let stat = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if is_whiteout_stat(&stat) {
            break;
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let found = rustix::fs::openat(layer, name, FOLDER, Mode::empty())?;
                let opaque = is_opaque(found.as_fd());
                merged.push(found);
                if opaque {
                    break;
                }
            }
            // What is no folder hides what is below, and is hidden by a folder above.
            _ if !merged.is_empty() => break,
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                return Ok(Some(Found::File(rustix::fs::openat(layer, name, flags, Mode::empty())?)));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(layer, name, Vec::new())?;
                return Ok(Some(Found::Link(target.into_bytes())));
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(Found::Folder(merged)).filter(|found| !matches!(found, Found::Folder(folders) if folders.is_empty())))
}
