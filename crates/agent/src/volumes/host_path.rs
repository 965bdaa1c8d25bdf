//! `hostPath`: what its type asks for is checked, and made where it says so.
//!
//! Invariant: what is there already is never changed.
//! Upstream: `pkg/volume/hostpath/host_path.go`, v1.36.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::set_mode;
use crate::error::Error;

/// Checks what `hostPath.type` asks for, and makes what it says is to be made.
pub(super) fn check(host: &HostPathVolumeSource) -> Result<(), Error> {
    let path = Path::new(&host.path);
    let refuse = |what: &str| Err(Error::config(format!("hostPath type check failed: {} is not {what}", host.path)));
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return refuse("an absolute path without '..'");
    }
    let kind = host.type_.as_deref().unwrap_or_default();
    if kind == "DirectoryOrCreate" && !path.exists() {
        fs::create_dir_all(path).map_err(Error::io("make hostPath folder", path))?;
        return set_mode(path, 0o755);
    }
    if kind == "FileOrCreate" && !path.exists() {
        fs::write(path, b"").map_err(Error::io("make hostPath file", path))?;
        return set_mode(path, 0o644);
    }
    let found = fs::metadata(path).map(|meta| meta.file_type());
    let is = |check: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(check);
    match kind {
        "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => refuse("a directory"),
        "File" | "FileOrCreate" if !is(fs::FileType::is_file) => refuse("a file"),
        "Socket" if !is(fs::FileType::is_socket) => refuse("a socket"),
        "CharDevice" if !is(fs::FileType::is_char_device) => refuse("a character device"),
        "BlockDevice" if !is(fs::FileType::is_block_device) => refuse("a block device"),
        // Without a type, the mount itself tells when nothing is there.
        "" | "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice" | "BlockDevice" => {
            Ok(())
        }
        other => Err(Error::config(format!("hostPath.type {other:?} is unknown"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, kind: &str| {
            let path = dir.path().join(name).display().to_string();
            check(&HostPathVolumeSource { path, type_: Some(kind.to_owned()) }).map_err(|e| e.to_string())
        };
        check("made", "DirectoryOrCreate").unwrap();
        check("made", "Directory").unwrap();
        check("file", "FileOrCreate").unwrap();
        check("file", "File").unwrap();
        check("none", "").unwrap();
        assert!(check("none", "Directory").unwrap_err().contains("not a directory"));
        assert!(check("file", "Socket").unwrap_err().contains("not a socket"));
        assert!(check("file", "Odd").unwrap_err().contains("unknown"));
        assert!(check("../x", "Directory").is_err());
    }
}
