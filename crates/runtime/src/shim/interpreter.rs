//! What the kernel would execute in place of a program: the interpreter that a script or an ELF file names.
//!
//! Why it is looked at: the kernel follows the name in the process that executes it, which until then is the host's.
//! `/proc/self/exe` would be the host's executable, run inside the container and open to it (CVE-2019-5736).
//!
//! Invariant: nothing is executed whose interpreter, by what the file says when it is looked at, is such a name. What
//! can't be looked at can't be executed by root.
//! Left out: a process of the container that rewrites the file in the moment between (for commands there is the `stub`; a
//! container has no process before its first); formats that the host has
//! registered (binfmt_misc), whose interpreters the host chooses.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How many scripts may interpret each other, as in the kernel (`fs/exec.c`).
const DEPTH: usize = 5;
/// How much of a script the kernel looks at (`BINPRM_BUF_SIZE`).
const FIRST: usize = 256;
/// The kernel's limit of an ELF interpreter's name (`PATH_MAX`).
const LONGEST: usize = 4096;
/// How many program headers the kernel accepts are no more than fit one page of 64 KiB.
const HEADERS: usize = 64 * 1024;

/// Whether an interpreter on the way from `path` is `forbidden`.
pub(super) fn leads_to(path: &CStr, forbidden: impl Fn(&CStr) -> bool) -> bool {
    let mut path = path.to_owned();
    for _ in 0..=DEPTH {
        match of(&path) {
            Ok(Some(next)) => {
                if forbidden(&next) {
                    return true;
                }
                path = next;
            }
            // The kernel tells better what is wrong with it.
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => return false,
            Err(_) => return rustix::process::geteuid().is_root(),
        }
    }
    false // deeper than the kernel goes
}

/// The interpreter that a file names.
fn of(path: &CStr) -> Result<Option<CString>, Errno> {
    // Not blocking, lest a FIFO or a device keeps us here.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let kind = FileType::from_raw_mode(rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty())?.st_mode);
    if !kind.is_file() {
        return Ok(None); // refused by the kernel
    }
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let first = read(&file, FIRST, 0)?;
    if let Some(line) = first.strip_prefix(b"#!") {
        return Ok(of_script(line));
    }
    of_elf(&file, &first)
}

/// The first word of a script's first line.
fn of_script(line: &[u8]) -> Option<CString> {
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let word = line.iter().position(|byte| !blank(byte)).map(|start| &line[start..])?;
    let word = word.split(|byte| blank(byte) || *byte == 0).next()?;
    CString::new(word).ok().filter(|word| !word.is_empty())
}

/// What `PT_INTERP` of an ELF file of this machine's byte order names.
fn of_elf(file: &OwnedFd, first: &[u8]) -> Result<Option<CString>, Errno> {
    const PT_INTERP: u64 = 3;
    if !first.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let wide = first.get(4) == Some(&2);
    // Where things are: the headers' offset, size and number, and in one the offset and size of what it tells of.
    let (offset, size, number, at, len) =
        if wide { ((32, 8), 54, 56, (8, 8), (32, 8)) } else { ((28, 4), 42, 44, (4, 4), (16, 4)) };
    let (Some(table), Some(size), Some(number)) =
        (integer(first, offset), integer(first, (size, 2)), integer(first, (number, 2)))
    else {
        return Ok(None);
    };
    let whole = usize::try_from(size * number).map_or(HEADERS, |whole| whole.min(HEADERS));
    let headers = read(file, whole, table)?;
    for header in headers.chunks_exact(usize::try_from(size).unwrap_or(0).max(1)) {
        if integer(header, (0, 4)) != Some(PT_INTERP) {
            continue;
        }
        let (Some(at), Some(len)) = (integer(header, at), integer(header, len)) else { return Ok(None) };
        let name = read(file, usize::try_from(len).map_or(LONGEST, |len| len.min(LONGEST)), at)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        return Ok(CString::new(name).ok().filter(|name| !name.is_empty()));
    }
    Ok(None)
}

/// A number of the machine's byte order: where and how many bytes.
fn integer(bytes: &[u8], (at, len): (usize, usize)) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?;
    let mut number = [0; 8];
    number[..len].copy_from_slice(bytes); // little-endian, as are all machines that this is built for
    Some(u64::from_le_bytes(number))
}

fn read(file: &OwnedFd, len: usize, at: u64) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match rustix::io::pread(file, &mut bytes[have..], at.saturating_add(have as u64)) {
            Ok(0) | Err(Errno::INVAL) => break,
            Ok(n) => have += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    fn file(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> CString {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn the_first_word_of_the_first_line_is_a_scripts_interpreter() {
        for (line, word) in [
            ("/bin/sh\nrest", Some("/bin/sh")),
            (" \t/bin/sh -e x\n", Some("/bin/sh")),
            ("/bin/sh", Some("/bin/sh")),
            ("relative\targ", Some("relative")),
            ("/a\0b", Some("/a")),
            ("\n/bin/sh", None),
            ("", None),
            ("   ", None),
        ] {
            let found = of_script(line.as_bytes());
            assert_eq!(found.as_deref().map(|c| c.to_str().unwrap()), word, "{line:?}");
        }
    }

    #[test]
    fn forbidden_interpreters_are_found_through_scripts_of_scripts() {
        let dir = tempfile::tempdir().unwrap();
        let bad = |path: &CStr| path == c"/proc/self/exe";
        let direct = file(&dir, "direct", b"#!/proc/self/exe\n");
        let through = file(&dir, "through", &[b"#! ", direct.to_bytes(), b" arg\n"].concat());
        let good = file(&dir, "good", b"#!/bin/sh\n");
        let text = file(&dir, "text", b"echo hello\n");
        assert!(leads_to(&direct, bad) && leads_to(&through, bad));
        assert!(!leads_to(&good, bad) && !leads_to(&text, bad) && !leads_to(c"/nonexistent", bad));
    }

    #[test]
    fn an_elf_file_names_its_interpreter() {
        // 64 bits: one header, PT_INTERP, right behind the file's own.
        let mut elf = vec![0_u8; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 3;
        elf[72] = 120;
        elf[96] = 15;
        elf.extend_from_slice(b"/proc/self/exe\0");
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir, "elf", &elf);
        assert_eq!(of(&path).unwrap().as_deref(), Some(c"/proc/self/exe"));
        // Cut short anywhere, it names nothing or part of it, and nothing breaks.
        for len in 0..elf.len() {
            let _ = of(&file(&dir, "cut", &elf[..len])).unwrap();
        }
        // This test's own.
        let own = CString::new(std::env::current_exe().unwrap().as_os_str().as_bytes()).unwrap();
        assert!(of(&own).unwrap().is_none_or(|found| found.to_bytes().starts_with(b"/")));
    }
}
