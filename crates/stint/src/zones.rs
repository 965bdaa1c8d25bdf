//! This machine's time zones: its own one, and its database where that is newer than the built-in one.
//!
//! Invariant: a name that a user wrote never leads out of the database's folder.
//! Left out: zones that a POSIX `TZ` string describes (`EST5EDT,M3.2.0,…`).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use stint_core::schedule::zone::{self, Zone};

const DATABASE: &str = "/usr/share/zoneinfo";

/// Settles which database zones are from, and which zone is the machine's own.
pub fn settle() {
    prefer_newer();
    zone::set_local(local());
}

/// Prefers the machine's database if it is of a later release.
fn prefer_newer() {
    let index = File::open(Path::new(DATABASE).join("tzdata.zi"));
    let first = index.ok().and_then(|index| BufReader::new(index).lines().next()?.ok());
    let release = first.as_deref().and_then(|line| line.strip_prefix("# version ")).unwrap_or_default();
    if release > zone::bundled_release() {
        zone::prefer(read);
    }
}

/// The machine's own zone: that of `TZ`, else of `/etc/localtime`, else UTC.
pub fn local() -> Zone {
    let named = std::env::var("TZ").ok();
    let named = named.as_deref().map(|name| name.strip_prefix(':').unwrap_or(name)).filter(|name| !name.is_empty());
    if let Some(zone) = named.and_then(zone::named) {
        return zone;
    }
    let link = std::fs::read_link("/etc/localtime").unwrap_or_default();
    let name = link.to_str().and_then(|target| target.split_once("zoneinfo/")).map(|(_, name)| name);
    let file = || Zone::from_tzif("Local", &std::fs::read("/etc/localtime").ok()?);
    name.and_then(zone::named).or_else(file).unwrap_or_else(Zone::utc)
}

/// The name of the zone of the machine whose root is here, whatever `TZ` says, as for its cron: that of `/etc/localtime`,
/// else what `/etc/timezone` says. `None`: it has a zone without a name.
pub fn name_at(root: &Path) -> Option<String> {
    let localtime = root.join("etc/localtime");
    let link = std::fs::read_link(&localtime).unwrap_or_default();
    let linked = link.to_str().and_then(|target| target.split_once("zoneinfo/")).map(|(_, name)| name.to_owned());
    let written = || Some(std::fs::read_to_string(root.join("etc/timezone")).ok()?.trim().to_owned());
    let found = linked.or_else(written).filter(|name| zone::is_zone(name));
    found.or_else(|| (!localtime.exists()).then(|| "Etc/UTC".to_owned()))
}

fn read(name: &str) -> Option<Vec<u8>> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    if !name.split('/').all(is_part) {
        return None;
    }
    std::fs::read(Path::new(DATABASE).join(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_zone_has_the_name_that_it_is_linked_or_written_by() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        assert_eq!(name_at(root.path()).as_deref(), Some("Etc/UTC"));
        std::fs::write(etc.join("localtime"), "TZif").unwrap();
        assert_eq!(name_at(root.path()), None);
        std::fs::write(etc.join("timezone"), "Europe/Berlin\n").unwrap();
        assert_eq!(name_at(root.path()).as_deref(), Some("Europe/Berlin"));
        std::fs::remove_file(etc.join("localtime")).unwrap();
        std::os::unix::fs::symlink("../usr/share/zoneinfo/Asia/Tokyo", etc.join("localtime")).unwrap();
        assert_eq!(name_at(root.path()).as_deref(), Some("Asia/Tokyo"));
    }

    #[test]
    fn only_names_of_zones_are_looked_for() {
        for name in ["", "/etc/passwd", "../passwd", "Europe/../../passwd", "Europe//Berlin", "tzdata.zi"] {
            assert_eq!(read(name), None, "{name}");
        }
    }
}
