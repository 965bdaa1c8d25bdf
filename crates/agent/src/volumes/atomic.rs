//! Files from the API in a folder, replaced all at once, so that nobody sees some new and some old ones.
//!
//! ```text
//!  token, ca.crt, sub ─► ..data/token, ..data/ca.crt, ..data/sub     links that stay
//!  ..data ─► ..2026_11_24_18_03_31.123456789/                        a link that is swapped by one rename
//! ```
//!
//! Invariants: at every moment the names lead to the files of one writing, also after a crash between any two steps; what
//! says the same already is left alone, so that who watches `..data` is not woken for nothing.
//! Upstream: `pkg/volume/util/atomic_writer.go`, `volume_linux.go` (`SetVolumeOwnership`), v1.36.
//! Left out: a mode that changes while the bytes stay; modes come from the pod's spec, which does not change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::set_mode;
use crate::error::Error;
use crate::folder::make_dirs;

/// The link that is swapped.
const DATA: &str = "..data";
/// What it is before it has its name.
const NEXT: &str = "..data_tmp";

/// A file from the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    /// Whose it is, if not root's.
    pub(super) user: Option<u32>,
}

/// Files by their paths.
pub(super) type Files = BTreeMap<String, File>;

/// Makes the folder's names lead to these files and no others. `group` is the pod's `fsGroup`.
pub(super) fn write(folder: &Path, files: &Files, group: Option<u32>, now: Timestamp) -> Result<(), Error> {
    let data = folder.join(DATA);
    let current = fs::read_link(&data).ok().map(|name| folder.join(name));
    if current.as_deref().is_some_and(|current| says(current, files)) {
        return link_names(folder, files);
    }
    if current.is_none() {
        make_dirs(folder).map_err(Error::io("make volume", folder))?;
        set_mode(folder, 0o755)?;
    }
    let made = new_folder(folder, now)?;
    for (name, file) in files {
        make_file(&made, name, file, group)?;
    }
    // Names that lead nowhere yet are better than files without a name.
    link_names(folder, files)?;
    let next = folder.join(NEXT);
    remove(&next)?;
    symlink(made.file_name().unwrap_or_default(), &next).map_err(Error::io("link", &next))?;
    fs::rename(&next, &data).map_err(Error::io("replace", &data))?;
    remove_others(folder, &made, files)
}

/// Whether a folder holds these bytes under these paths, and nothing else.
fn says(folder: &Path, files: &Files) -> bool {
    let same = |(name, file): (&String, &File)| fs::read(folder.join(name)).is_ok_and(|bytes| bytes == file.bytes);
    let mut found = BTreeSet::new();
    files.iter().all(same) && paths(folder, "", &mut found).is_ok() && found.iter().all(|path| files.contains_key(path))
}

/// Adds the paths of the files below a folder.
fn paths(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            paths(&entry.path(), &format!("{path}/"), found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

/// A folder that is named for the moment at which it is made.
fn new_folder(parent: &Path, now: Timestamp) -> Result<PathBuf, Error> {
    let mut number = now.subsec_nanosecond();
    loop {
        let path = parent.join(format!("{}.{number}", now.strftime("..%Y_%m_%d_%H_%M_%S")));
        match fs::create_dir(&path) {
            // Another one of this moment, or what a crash left.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number = number.wrapping_add(1),
            Err(error) => return Err(Error::io("make folder", &path)(error)),
            Ok(()) => return set_mode(&path, 0o755).map(|()| path),
        }
    }
}

fn make_file(folder: &Path, name: &str, file: &File, group: Option<u32>) -> Result<(), Error> {
    let path = folder.join(name);
    let mut parent = folder.to_owned();
    for part in Path::new(name).parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        make_dirs(&parent).map_err(Error::io("make folder", &parent))?;
        set_mode(&parent, 0o755)?;
    }
    fs::write(&path, &file.bytes).map_err(Error::io("write", &path))?;
    if file.user.is_some() || group.is_some() {
        chown(&path, file.user, group).map_err(Error::io("give away", &path))?;
    }
    // The group may read what is given to it, whatever the mode says.
    set_mode(&path, if group.is_some() { file.mode | 0o440 } else { file.mode })
}

/// The names that containers use, each a link into `..data`.
fn link_names(folder: &Path, files: &Files) -> Result<(), Error> {
    for first in first_parts(files) {
        let name = folder.join(first);
        match symlink(Path::new(DATA).join(first), &name) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("link", &name)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the names of files that there are no more, and what earlier writings left.
fn remove_others(folder: &Path, made: &Path, files: &Files) -> Result<(), Error> {
    let wanted: BTreeSet<&str> = first_parts(files).collect();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != DATA && entry.path() != made && !wanted.contains(name.as_str()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn first_parts(files: &Files) -> impl Iterator<Item = &str> {
    files.keys().map(|path| path.split('/').next().unwrap_or(path))
}

/// Removes a link, a file, or a folder with everything in it, if it is there.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn files(all: &[(&str, &str)]) -> Files {
        let file = |bytes: &str| File { bytes: bytes.into(), mode: 0o640, user: None };
        all.iter().map(|(name, bytes)| ((*name).to_owned(), file(bytes))).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = crate::folder::names(folder);
        names.sort();
        names
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_writing_replaces_the_one_before_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2"), ("sub/c", "3")]), None, at(0)).unwrap();
        assert_eq!(names(dir.path()), ["..1970_01_01_00_00_00.0", "..data", "a", "sub"]);
        let held = fs::read_link(dir.path().join(DATA)).unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "new"), ("d", "4")]), None, at(1)).unwrap();
        assert_ne!(fs::read_link(dir.path().join(DATA)).unwrap(), held);
        assert_eq!(names(dir.path()), ["..1970_01_01_00_00_01.0", "..data", "a", "d", "sub"]);
        assert_eq!((read("a").as_str(), read("sub/b").as_str(), read("d").as_str()), ("1", "new", "4"));
        assert!(!dir.path().join("sub/c").exists());
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn what_says_the_same_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let all = files(&[("a", "1"), ("sub/b", "2")]);
        write(dir.path(), &all, None, at(0)).unwrap();
        let link = || fs::read_link(dir.path().join(DATA)).unwrap();
        let before = link();
        write(dir.path(), &all, None, at(1)).unwrap();
        assert_eq!(link(), before);
        // One file less is another saying.
        write(dir.path(), &files(&[("a", "1")]), None, at(2)).unwrap();
        assert_ne!(link(), before);
    }

    #[test]
    fn a_crash_between_two_steps_leaves_the_old_files_and_is_cleaned_up_by_the_next_writing() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files(&[("a", "old")]), None, at(0)).unwrap();
        // It got as far as the link that was to be renamed.
        let half = new_folder(dir.path(), at(1)).unwrap();
        fs::write(half.join("a"), "half").unwrap();
        symlink("..1970_01_01_00_00_01.0", dir.path().join(NEXT)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "old");
        write(dir.path(), &files(&[("a", "new")]), None, at(1)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "new");
        assert_eq!(names(dir.path()), ["..1970_01_01_00_00_01.1", "..data", "a"]);
    }

    #[test]
    fn files_are_given_to_user_and_group() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let mut all = files(&[("token", "t"), ("other", "o")]);
        let token = all.get_mut("token").unwrap();
        (token.user, token.mode) = (Some(1000), 0o600);
        for (group, expected) in [(None, (1000, 0, 0o600)), (Some(2000), (1000, 2000, 0o640))] {
            let folder = dir.path().join(format!("{group:?}"));
            write(&folder, &all, group, at(0)).unwrap();
            let found = fs::metadata(folder.join("token")).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), expected);
            assert_eq!(fs::metadata(folder.join("other")).unwrap().uid(), 0);
        }
    }
}
