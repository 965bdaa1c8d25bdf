//! What a layer may do to the machine: nothing; and what it becomes: what it says. Each attack by its name.

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stint_image::{Limits, UnpackError, Unpacked, unpack};
use support::{Tar, is_root};

/// A layer's folder with a neighbour that no layer may touch.
struct Place {
    parent: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    /// In memory, where there is such a place: for tests with thousands of them.
    fn in_memory() -> Self {
        Self::in_folder(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn in_folder(parent: tempfile::TempDir) -> Self {
        fs::create_dir(parent.path().join("layer")).unwrap();
        fs::create_dir(parent.path().join("host")).unwrap();
        fs::write(parent.path().join("host/secret"), "host").unwrap();
        Self { parent }
    }

    fn unpack(&self, tar: Tar) -> Result<Unpacked, UnpackError> {
        self.unpack_within(tar, Limits::default())
    }

    fn unpack_within(&self, tar: Tar, limits: Limits) -> Result<Unpacked, UnpackError> {
        let outcome = unpack(&tar.end()[..], &self.parent.path().join("layer"), limits);
        self.assert_host_untouched();
        outcome
    }

    fn assert_host_untouched(&self) {
        let host = self.parent.path().join("host");
        assert_eq!(fs::read_to_string(host.join("secret")).unwrap(), "host");
        assert_eq!(fs::metadata(host.join("secret")).unwrap().nlink(), 1, "nothing links to the host's file");
        let names = |path: &Path| -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&host), ["secret"]);
        assert_eq!(names(self.parent.path()), ["host", "layer"]);
    }

    fn host(&self) -> String {
        self.parent.path().join("host").to_str().unwrap().to_owned()
    }

    fn file(&self, path: &str) -> PathBuf {
        self.parent.path().join("layer/fs").join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.file(path)).unwrap()
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn refusal(outcome: Result<Unpacked, UnpackError>) -> String {
    match outcome {
        Err(error @ UnpackError::Refused { .. }) => {
            assert!(error.is_permanent());
            error.to_string()
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn dot_dot_in_a_name_is_refused() {
    if !is_root() {
        return;
    }
    for name in ["../host/x", "a/../../host/x", "a/..", "..", "/../x", "./../x", "a/../b"] {
        let text = refusal(Place::new().unpack(Tar::new().folder("a").file(name, "x")));
        assert!(text.contains(".."), "{text}");
    }
}

#[test]
fn an_absolute_name_lands_in_the_layer() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let path = format!("{}/secret", place.host());
    place.unpack(Tar::new().file(&path, "layer")).unwrap();
    assert_eq!(place.text(path.trim_start_matches('/')), "layer");
}

#[test]
fn writing_through_an_absolute_link_lands_in_the_layer() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let host = place.host();
    // The link's target is missing inside the layer, so there is nowhere to write.
    let text = refusal(place.unpack(Tar::new().symlink("link", &host).file("link/secret", "layer")));
    assert!(text.contains("leads nowhere"), "{text}");
    // With the same path inside the layer, that is where it goes.
    let place = Place::new();
    let host = place.host();
    let inside = host.trim_start_matches('/').to_owned();
    place.unpack(Tar::new().folder(&inside).symlink("link", &host).file("link/secret", "layer")).unwrap();
    assert_eq!(place.text(&format!("{inside}/secret")), "layer");
}

#[test]
fn writing_through_a_link_with_dot_dot_lands_in_the_layer() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = Tar::new().folder("host").symlink("a/up", "../../../../../host").file("a/up/secret", "layer");
    place.unpack(tar).unwrap();
    assert_eq!(place.text("host/secret"), "layer");
}

#[test]
fn a_file_over_a_link_replaces_the_link() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let secret = format!("{}/secret", place.host());
    place.unpack(Tar::new().symlink("f", &secret).file("f", "layer").symlink("g", "f").file("g", "g")).unwrap();
    assert!(place.file("f").symlink_metadata().unwrap().is_file());
    assert_eq!((place.text("f"), place.text("g")), ("layer".into(), "g".into()));
}

#[test]
fn a_chain_of_links_stays_in_the_layer() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let host = place.host();
    let mut tar = Tar::new().symlink("l0", &host);
    for n in 1..30 {
        tar = tar.symlink(&format!("l{n}"), &format!("l{}", n - 1));
    }
    refusal(place.unpack(tar.file("l29/secret", "layer")));
    let text = refusal(Place::new().unpack(Tar::new().symlink("x", "y").symlink("y", "x").file("x/f", "")));
    assert!(text.contains("too many links"), "{text}");
}

#[test]
fn a_magic_link_into_the_process_leads_nowhere() {
    if !is_root() {
        return;
    }
    for target in ["/proc/self/root", "/proc/self/cwd", "/proc/1/root"] {
        let place = Place::new();
        let path = format!("p{}/secret", place.host());
        refusal(place.unpack(Tar::new().symlink("p", target).file(&path, "layer")));
    }
}

#[test]
fn a_hard_link_to_a_host_file_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let secret = format!("{}/secret", place.host());
    let text = refusal(place.unpack(Tar::new().hard_link("h", &secret)));
    assert!(text.contains("lacks"), "{text}");
    refusal(Place::new().unpack(Tar::new().hard_link("h", "../../host/secret")));
    refusal(Place::new().unpack(Tar::new().hard_link("h", "/etc/passwd")));
    refusal(Place::new().unpack(Tar::new().hard_link("h", "")));
    refusal(Place::new().unpack(Tar::new().hard_link("h", "/")));
}

#[test]
fn a_hard_link_through_a_linked_folder_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let host = place.host();
    refusal(place.unpack(Tar::new().symlink("d", &host).hard_link("h", "d/secret")));
}

#[test]
fn a_hard_link_to_a_symbolic_link_is_to_the_link_itself() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let secret = format!("{}/secret", place.host());
    // Writing to the hard link afterwards must not write through it.
    place.unpack(Tar::new().symlink("s", &secret).hard_link("h", "s").file("h", "layer")).unwrap();
    assert_eq!(place.text("h"), "layer");
    assert!(place.file("s").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_hard_link_shares_the_file_and_survives_its_own_name() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar =
        Tar::new().file("a", "one").hard_link("b", "a").hard_link("b", "a").hard_link("a", "./a").file("c", "two");
    place.unpack(tar.hard_link("c", "/b")).unwrap();
    let inode = |name| fs::metadata(place.file(name)).unwrap().ino();
    assert_eq!((inode("a"), inode("a"), place.text("c")), (inode("b"), inode("c"), "one".into()));
    refusal(Place::new().unpack(Tar::new().folder("d").hard_link("e", "d")));
}

#[test]
fn a_device_is_left_out_unless_every_container_has_it() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let done = place
        .unpack(
            Tar::new()
                .device("dev/sda", b'4', 8, 0)
                .device("dev/mem", b'3', 1, 1)
                .device("dev/null", b'3', 1, 3)
                .device("dev/nullblock", b'4', 1, 3)
                .device("hidden", b'3', 0, 0),
        )
        .unwrap();
    let left_out: Vec<_> = done.notes.iter().map(|note| note.member.as_str()).collect();
    assert_eq!(left_out, ["dev/sda", "dev/mem", "dev/nullblock", "hidden"]);
    assert!(fs::metadata(place.file("dev/null")).unwrap().file_type().is_char_device());
    assert_eq!(fs::read_dir(place.file("dev")).unwrap().count(), 1);
    assert!(place.file("hidden").symlink_metadata().is_err(), "a device 0:0 would be a forged whiteout");
}

#[test]
fn the_overlays_own_attributes_cannot_be_forged() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.other", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.kept", b"a\nb\0c"),
    ];
    let done = place.unpack(Tar::new().pax(records).folder("d").pax(records).file("f", "")).unwrap();
    assert_eq!(done.notes.len(), 12, "{:?}", done.notes);
    for name in ["d", "f"] {
        let path = place.file(name);
        for (key, _) in &records[..6] {
            let key = key.trim_start_matches("SCHILY.xattr.");
            assert_eq!(xattr(&path, key), None, "{key} of {name}");
        }
        assert_eq!(xattr(&path, "user.kept").as_deref(), Some(&b"a\nb\0c"[..]), "a value with a line break, of {name}");
    }
}

#[test]
fn setuid_owner_time_and_capabilities_are_kept() {
    if !is_root() {
        return;
    }
    // VFS_CAP_REVISION_2 with cap_net_raw, effective; it holds a line break in no place, and NULs in most.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let place = Place::new();
    let tar = Tar::new()
        .add("bin", b'5', "", b"", |h| h.set_mode(0o1777))
        .add("bin/su", b'0', "", b"su", |h| {
            h.set_mode(0o6755);
            h.set_uid(7);
            h.set_gid(70000);
        })
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("mtime", b"1234567890.5"), ("uid", b"3000000")])
        .file("bin/ping", "ping")
        .add("bin/l", b'2', "su", b"", |h| h.set_uid(9))
        .add("pipe", b'6', "", b"", |h| h.set_mode(0o622));
    place.unpack(tar).unwrap();
    let stat = |name: &str| place.file(name).symlink_metadata().unwrap();
    assert_eq!((stat("bin/su").mode() & 0o7777, stat("bin/su").uid(), stat("bin/su").gid()), (0o6755, 7, 70000));
    assert_eq!(stat("bin").mode() & 0o7777, 0o1777);
    assert_eq!(
        (stat("bin").mtime(), stat("bin/su").mtime(), stat("bin/l").mtime()),
        (1_000_000_000, 1_000_000_000, 1_000_000_000)
    );
    assert_eq!((stat("bin/ping").mtime(), stat("bin/ping").mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!((stat("bin/ping").uid(), stat("bin/l").uid()), (3_000_000, 9));
    assert_eq!(xattr(&place.file("bin/ping"), "security.capability").unwrap(), capability);
    assert!(stat("pipe").file_type().is_fifo());
    assert_eq!(stat("pipe").mode() & 0o777, 0o622);
}

#[test]
fn whiteouts_become_the_overlays() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = Tar::new()
        .file(".wh.gone", "")
        .file("d/.wh..wh..opq", "")
        .file("d/new", "")
        .file("e/f", "")
        .file(".wh.e", "")
        .file(".wh.g", "")
        .file("g/h", "")
        .file(".wh.i", "")
        .file("i", "file")
        .file(".wh.j", "")
        .folder("j")
        .file(".wh..wh.plnk/1.2", "aufs")
        .file(".wh..wh.orph", "aufs");
    place.unpack(tar).unwrap();
    let gone = place.file("gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for folder in ["d", "e", "g", "j"] {
        assert_eq!(xattr(&place.file(folder), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]), "{folder}");
    }
    assert_eq!(place.text("i"), "file");
    assert!(place.file("g/h").exists() && place.file("e/f").exists());
    let names: Vec<_> = fs::read_dir(place.file("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_str().unwrap().starts_with(".wh.")), "{names:?}");
}

#[test]
fn a_whiteout_of_nothing_or_of_the_parent_is_refused() {
    if !is_root() {
        return;
    }
    for name in [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.x/y"] {
        refusal(Place::new().unpack(Tar::new().folder("a").file(name, "")));
    }
    refusal(Place::new().unpack(Tar::new().file(".wh.x", "").hard_link("y", ".wh.x")));
}

#[test]
fn a_whiteout_through_a_link_stays_in_the_layer() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let host = place.host();
    refusal(place.unpack(Tar::new().symlink("d", &host).file("d/.wh.secret", "")));
    let place = Place::new();
    let host = place.host();
    refusal(place.unpack(Tar::new().symlink("d", &host).file("d/.wh..wh..opq", "")));
    assert_eq!(xattr(Path::new(&place.host()), "trusted.overlay.opaque"), None);
}

#[test]
fn the_last_of_several_members_of_a_name_wins() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = Tar::new()
        .file("a", "first")
        .file("a", "second")
        .folder("b")
        .file("b/deep/er", "x")
        .file("b", "now a file")
        .file("c", "file")
        .folder("c")
        .file("c/d", "in it")
        .folder("e")
        .file("e/kept", "kept")
        .add("e", b'5', "", b"", |h| h.set_mode(0o700))
        .folder("target")
        .symlink("f", "target")
        .folder("f")
        .file("f/own", "");
    place.unpack(tar).unwrap();
    assert_eq!(
        (place.text("a"), place.text("b"), place.text("c/d")),
        ("second".into(), "now a file".into(), "in it".into())
    );
    assert_eq!(place.text("e/kept"), "kept", "a folder again is the same folder");
    assert_eq!(fs::metadata(place.file("e")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!place.file("target/own").exists(), "a folder over a link replaces the link");
    assert!(!place.parent.path().join("layer/replaced").exists());
}

#[test]
fn a_member_below_a_file_is_refused() {
    if !is_root() {
        return;
    }
    let text = refusal(Place::new().unpack(Tar::new().file("a", "").file("a/b", "")));
    assert!(text.contains("no folder"), "{text}");
    refusal(Place::new().unpack(Tar::new().file("./", "").symlink("/", "x")));
}

#[test]
fn a_folder_swapped_for_a_link_between_members_is_not_followed() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let host = place.host();
    refusal(place.unpack(Tar::new().file("d/a", "").symlink("d", &host).file("d/secret", "layer")));
}

#[test]
fn odd_names_are_refused_and_long_ones_kept() {
    if !is_root() {
        return;
    }
    refusal(Place::new().unpack(Tar::new().file("", "")));
    refusal(Place::new().unpack(Tar::new().pax(&[("path", b"a\0b")]).file("x", "")));
    refusal(Place::new().unpack(Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("x", "y")));
    refusal(Place::new().unpack(Tar::new().symlink("x", "")));
    refusal(Place::new().unpack(Tar::new().file(&"n".repeat(256), "")));
    refusal(Place::new().unpack(Tar::new().file(&"n/".repeat(3000), "")));
    refusal(Place::new().unpack(Tar::new().raw("x", b'Q', b"")));
    refusal(Place::new().unpack(Tar::new().pax(&[("uid", b"4294967295")]).file("x", "")));

    let place = Place::new();
    let (long, link) = (format!("{}/{}", "l".repeat(200), "m".repeat(255)), "t/".repeat(500));
    let tar = Tar::new()
        .file(&long, "long")
        .symlink("link", &link)
        .pax(&[("path", "p\u{e4}x/\u{1f980}".as_bytes()), ("comment", b"a\nb")])
        .file("short", "pax")
        .raw("g", b'g', b"18 comment=global\n")
        .file("\u{1b}[31m\n", "odd but legal");
    place.unpack(tar).unwrap();
    assert_eq!((place.text(&long), place.text("p\u{e4}x/\u{1f980}")), ("long".into(), "pax".into()));
    assert_eq!(fs::read_link(place.file("link")).unwrap().to_str().unwrap(), link);
    assert_eq!(place.text("\u{1b}[31m\n"), "odd but legal");
}

#[test]
fn sparse_files_of_each_form_are_filled_where_they_say() {
    if !is_root() {
        return;
    }
    let check = |tar: Tar, name: &str| {
        let place = Place::new();
        let done = place.unpack(tar.file("after", "next")).unwrap();
        let mut expected = vec![0; 100_000];
        expected[512..1024].fill(b'a');
        expected[65536..66048].fill(b'b');
        assert!(fs::read(place.file(name)).unwrap() == expected, "{name}");
        assert_eq!((place.text("after"), done.bytes), ("next".into(), 100_004));
    };
    let data = [[b'a'; 512], [b'b'; 512]].concat();
    let octal = |n: u64| format!("{n:011o}\0").into_bytes();
    let old = Tar::new().add("old", b'S', "", &data, |header| {
        let bytes = header.as_mut_bytes();
        for (place, (offset, length)) in [(512, 512), (65536, 512), (100_000, 0)].into_iter().enumerate() {
            bytes[386 + 24 * place..398 + 24 * place].copy_from_slice(&octal(offset));
            bytes[398 + 24 * place..410 + 24 * place].copy_from_slice(&octal(length));
        }
        bytes[483..495].copy_from_slice(&octal(100_000));
    });
    check(old, "old");
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", b"zero"),
        ("GNU.sparse.size", b"100000"),
        ("GNU.sparse.map", b"512,512,65536,512"),
    ];
    check(Tar::new().pax(records).file("GNUSparseFile.0/zero", &data), "zero");
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"one"),
        ("GNU.sparse.realsize", b"100000"),
    ];
    let mut with_map = b"2\n512\n512\n65536\n512\n".to_vec();
    with_map.resize(512, 0);
    with_map.extend_from_slice(&data);
    check(Tar::new().pax(records).file("GNUSparseFile.0/one", &with_map), "one");

    for map in
        ["512,512,600,512", "65536,512,512,512", "512,512,99999,512", "512,512", "512,18446744073709551615,0,1", "1"]
    {
        let records: &[(&str, &[u8])] =
            &[("GNU.sparse.name", b"z"), ("GNU.sparse.size", b"100000"), ("GNU.sparse.map", map.as_bytes())];
        let outcome = Place::new().unpack(Tar::new().pax(records).file("z", &data));
        assert!(matches!(outcome, Err(UnpackError::Malformed(_))), "{map}: {outcome:?}");
    }
}

#[test]
fn a_layer_larger_than_the_limits_is_refused_with_the_limit() {
    if !is_root() {
        return;
    }
    let bytes = |bytes| Limits { bytes, ..Limits::default() };
    let large = Tar::new().file("a", vec![0; 6000]).file("b", vec![0; 6000]);
    let text = Place::new().unpack_within(large.clone(), bytes(10_000)).unwrap_err().to_string();
    assert!(text.contains("10000 bytes") && text.contains("limit"), "{text}");
    Place::new().unpack_within(large.clone(), bytes(12_001)).unwrap();
    let outcome = Place::new().unpack_within(large, Limits { entries: 1, ..Limits::default() });
    assert!(matches!(outcome, Err(UnpackError::TooLarge { limit: 1, what: "entries" })), "{outcome:?}");

    // A hole costs no disk, and counts all the same.
    let records: &[(&str, &[u8])] =
        &[("GNU.sparse.name", b"z"), ("GNU.sparse.size", b"9000000000000000000"), ("GNU.sparse.map", b"")];
    let outcome = Place::new().unpack(Tar::new().pax(records).file("z", ""));
    assert!(matches!(outcome, Err(UnpackError::TooLarge { .. })), "{outcome:?}");
    // Endless padding after the end of the archive.
    let mut padded = Tar::new().file("a", "").end();
    padded.resize(200_000, 0);
    let place = Place::new();
    let outcome = unpack(&padded[..], &place.parent.path().join("layer"), bytes(100_000));
    assert!(matches!(outcome, Err(UnpackError::TooLarge { .. })), "{outcome:?}");
}

#[test]
fn endless_extension_headers_are_refused() {
    if !is_root() {
        return;
    }
    let name = vec![b'n'; 600 << 10];
    let outcome = Place::new().unpack(Tar::new().raw("l", b'L', &name).raw("l", b'L', &name).file("x", ""));
    assert!(matches!(outcome, Err(UnpackError::Malformed(_))), "{outcome:?}");
    let outcome = Place::new().unpack(Tar::new().add("l", b'L', "", b"", |h| h.set_size(1 << 40)));
    assert!(matches!(outcome, Err(UnpackError::Malformed(_))), "{outcome:?}");
}

#[test]
fn damaged_archives_are_malformed_and_never_a_panic() {
    if !is_root() {
        return;
    }
    let whole = Tar::new()
        .folder("d")
        .pax(&[("path", b"d/long"), ("size", b"5"), ("mtime", b"-1.5"), ("SCHILY.xattr.user.a", b"b")])
        .file("x", "hello")
        .symlink("s", "d")
        .hard_link("h", "d/long")
        .end();
    let run = |bytes: &[u8]| {
        let place = Place::in_memory();
        let outcome = unpack(bytes, &place.parent.path().join("layer"), Limits::default());
        place.assert_host_untouched();
        outcome
    };
    run(&whole).unwrap();
    for end in (1..whole.len() - 1024).step_by(97) {
        let _ = run(&whole[..end]);
    }
    // Each byte of each header changed, with the checksum right: every field gets nonsense.
    for block in 0..(whole.len() / 512 - 2) {
        for place in (0..512).step_by(5) {
            for value in [0, 0xff, b'9', b' '] {
                let mut bytes = whole.clone();
                bytes[block * 512 + place] = value;
                let header = &mut bytes[block * 512..block * 512 + 512];
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                let _ = run(&bytes);
            }
        }
    }
    assert!(matches!(
        run(b"this is no archive at all, but it is longer than nothing".repeat(20).as_slice()),
        Err(UnpackError::Malformed(_))
    ));
}

#[test]
fn the_process_umask_does_not_show() {
    if !is_root() {
        return;
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let place = Place::new();
    let outcome = place.unpack(Tar::new().file("a/b", ""));
    rustix::process::umask(before);
    outcome.unwrap();
    let mode = |path| fs::metadata(place.file(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("a"), mode("a/b")), (0o755, 0o755, 0o644));
}
