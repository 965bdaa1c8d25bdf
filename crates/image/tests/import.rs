//! Images from archives, and what the store does with them afterwards.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use stint_image::{Error, Image, ImageStore, Import, LayerState, Limits, NoProgress, Progress, Reference, Source};
use support::*;

/// What was reported, by layer.
#[derive(Default)]
struct Seen(Mutex<HashMap<String, Vec<LayerState>>>);

impl Progress for Seen {
    fn layer(&self, digest: &str, state: LayerState) {
        self.0.lock().unwrap().entry(digest.to_owned()).or_default().push(state);
    }
}

struct Store {
    folder: tempfile::TempDir,
    store: ImageStore,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&folder.path().join("images")).unwrap();
        Self { folder, store }
    }

    async fn import(&self, bytes: Vec<u8>) -> Result<Vec<Image>, Error> {
        self.import_as(bytes, &Import::default()).await
    }

    async fn import_as(&self, bytes: Vec<u8>, how: &Import) -> Result<Vec<Image>, Error> {
        self.store.import(Source::Reader(Box::new(Cursor::new(bytes))), how, &NoProgress).await
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join("images").join(folder)).unwrap().count()
    }
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

fn check_small(image: &Image) {
    assert_eq!(image.layers.len(), 2);
    let (upper, lower) = (&image.layers[0], &image.layers[1]);
    assert_eq!(fs::read_to_string(upper.join("bin/tool")).unwrap(), "#!/bin/sh\n");
    assert_eq!(fs::read_to_string(lower.join("gone")).unwrap(), "from below");
    assert!(upper.join("gone").symlink_metadata().unwrap().file_type().is_char_device());
    assert_eq!(image.config.env().as_deref().unwrap(), ["PATH=/bin", "A=b"]);
    assert_eq!(image.config.working_dir().as_deref(), Some("/srv"));
    assert_eq!(image.config.stop_signal().as_deref(), Some("SIGINT"));
    assert!(image.size > 0);
    let user = image.resolve_user(image.config.user().as_deref().unwrap()).unwrap();
    assert_eq!((user.uid, user.gid, &user.additional_gids[..], &user.home[..]), (1000, 1001, &[10][..], "/srv"));
}

#[tokio::test]
async fn every_form_of_archive_gives_the_same_image() {
    if !is_root() {
        return;
    }
    let built = small_image();
    let layout_files = layout(&[("perl:5.34.0", &built)]);
    let saved = |compress| tar_of(&docker_save("perl:5.34.0", &built, compress));
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("layout, plain", tar_of(&layout_files)),
        ("layout, gzip", gzip(&tar_of(&layout_files))),
        ("layout, zstd", zstd(&tar_of(&layout_files))),
        ("docker save, plain", saved(plain)),
        ("docker save, gzip", gzip(&saved(plain))),
        ("docker save, compressed layers", saved(gzip)),
        ("docker save, zstd of zstd", zstd(&saved(zstd))),
    ];
    for (form, bytes) in forms {
        let store = Store::new();
        let images = store.import(bytes.clone()).await.unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(images.len(), 1, "{form}");
        check_small(&images[0]);
        assert_eq!(images[0].reference.familiar(), "perl:5.34.0");
        let again = store.store.get(&name("perl:5.34.0")).unwrap().unwrap();
        assert_eq!(
            (again.id.to_string(), &again.layers),
            (stint_image::Digest::of(&built.config).to_string(), &images[0].layers)
        );

        // The same from a file.
        let store = Store::new();
        let file = store.folder.path().join("archive");
        fs::write(&file, bytes).unwrap();
        let images = store.store.import(Source::Path(file), &Import::default(), &NoProgress).await.unwrap();
        check_small(&images[0]);
    }
    let store = Store::new();
    let folder = store.folder.path().join("layout");
    write_folder(&folder, &layout_files);
    let seen = Seen::default();
    let images = store.store.import(Source::Path(folder), &Import::default(), &seen).await.unwrap();
    check_small(&images[0]);
    assert_eq!(images[0].digest, built.digest());
    let seen = seen.0.into_inner().unwrap();
    assert_eq!(seen.len(), 2);
    for states in seen.values() {
        assert_eq!((states.first(), states.last()), (Some(&LayerState::Waiting), Some(&LayerState::Done)));
    }
    assert_eq!((store.count("layers"), store.count("blobs"), store.count("work")), (2, 2, 0));
}

#[tokio::test]
async fn a_saved_archive_with_links_between_its_layers_is_read() {
    if !is_root() {
        return;
    }
    let built = small_image();
    let mut tar = Tar::new();
    for (path, bytes) in docker_save("a:1", &built, plain) {
        tar = if path == "1abc/layer.tar" {
            tar.file("other/real.tar", bytes).symlink("./1abc/layer.tar", "../other/real.tar")
        } else {
            tar.file(&path, bytes)
        };
    }
    check_small(&Store::new().import(tar.end()).await.unwrap()[0]);
}

#[tokio::test]
async fn layers_are_shared_and_go_when_nothing_refers_to_them() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let base = (Tar::new().file("base", "x").end(), gzip as Compress);
    let one = image(&[base.clone(), (Tar::new().file("one", "").end(), gzip)]);
    // Compressed differently: the same layer all the same.
    let two = image(&[(base.0.clone(), zstd), (Tar::new().file("two", "").end(), plain)]);
    let seen = Seen::default();
    store.import(tar_of(&layout(&[("one:1", &one)]))).await.unwrap();
    let source = Source::Reader(Box::new(Cursor::new(tar_of(&layout(&[("two:1", &two)])))));
    store.store.import(source, &Import::default(), &seen).await.unwrap();
    assert_eq!(store.count("layers"), 3);
    let states: Vec<_> = seen.0.into_inner().unwrap().into_values().map(|states| *states.last().unwrap()).collect();
    assert!(states.contains(&LayerState::Cached) && states.contains(&LayerState::Done), "{states:?}");
    let listed = store.store.list().unwrap();
    assert_eq!(listed.iter().map(|image| image.reference.familiar()).collect::<Vec<_>>(), ["one:1", "two:1"]);
    assert_eq!(listed[0].layers[1], listed[1].layers[1], "one folder for both");

    let removed = store.store.remove(&name("one:1")).unwrap();
    assert_eq!((removed.references.len(), removed.layers, removed.held), (1, 1, 0));
    assert!(store.store.get(&name("one:1")).unwrap().is_none());
    assert_eq!(fs::read_to_string(listed[1].layers[1].join("base")).unwrap(), "x");
    let removed = store.store.remove(&name("two:1")).unwrap();
    assert_eq!(removed.layers, 2);
    assert_eq!((store.count("layers"), store.count("blobs"), store.count("work")), (0, 0, 0));
    assert_eq!(store.store.remove(&name("two:1")).unwrap(), stint_image::Removed::default());
}

#[tokio::test]
async fn a_leased_image_stays_until_it_is_released_also_across_a_restart() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let image = store.import(tar_of(&layout(&[("a:1", &small_image())]))).await.unwrap().remove(0);
    store.store.lease(&image, "pod-1").unwrap();
    store.store.lease(&image, "pod-1").unwrap();
    store.store.lease(&image, "pod-2").unwrap();
    let removed = store.store.remove(&image.reference).unwrap();
    assert_eq!((removed.layers, removed.held), (0, 2));

    let reopened = ImageStore::open(&store.folder.path().join("images")).unwrap();
    assert_eq!(reopened.leases().unwrap(), ["pod-1", "pod-2"]);
    reopened.release("pod-1").unwrap();
    reopened.release("never-leased").unwrap();
    check_small(&image);
    reopened.release("pod-2").unwrap();
    assert_eq!((store.count("layers"), store.count("blobs")), (0, 0));
    assert!(matches!(store.store.lease(&image, "pod-3"), Err(Error::Gone { .. })));
    for owner in ["", "../x", ".x", "a/b", "a b"] {
        assert!(store.store.lease(&image, owner).is_err(), "{owner:?}");
    }
}

#[tokio::test]
async fn an_image_is_used_from_its_first_lease_to_its_last_release_and_only_then_removed_as_unused() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let base = (Tar::new().file("base", "x").end(), gzip as Compress);
    let one = image(&[base.clone(), (Tar::new().file("one", "").end(), gzip)]);
    let two = image(&[base, (Tar::new().file("two", "").end(), gzip)]);
    let one = store.import(tar_of(&layout(&[("one:1", &one), ("one:2", &one)]))).await.unwrap().remove(0);
    let two = store.import(tar_of(&layout(&[("two:1", &two)]))).await.unwrap().remove(0);
    let of = |image: &Image| store.store.usage().unwrap().into_iter().find(|it| it.digest == image.digest).unwrap();
    // A clock that is coarser than this test is quick.
    let later = || std::thread::sleep(Duration::from_millis(20));
    let came = of(&one);
    assert_eq!(came.references.iter().map(Reference::familiar).collect::<Vec<_>>(), ["one:1", "one:2"]);
    assert_eq!((came.size, came.owners.len()), (one.size, 0));
    later();
    store.store.lease(&one, "a").unwrap();
    let leased = of(&one);
    assert!(leased.last_used > came.last_used && leased.came == came.came, "{leased:?} {came:?}");
    assert_eq!(leased.owners, ["a"]);
    assert_eq!(store.store.remove_unused(&one.digest).unwrap(), None, "it is used");
    later();
    store.store.release("a").unwrap();
    assert!(of(&one).last_used > leased.last_used);
    assert!(of(&two).last_used < leased.last_used, "each has its own time");

    let removed = store.store.remove_unused(&one.digest).unwrap().unwrap();
    assert_eq!((removed.references.len(), removed.layers), (2, 1), "both its names, and the layer that only it had");
    assert!(two.layers.iter().all(|layer| layer.exists()));
    assert_eq!(store.store.usage().unwrap().len(), 1);
    assert_eq!(store.store.remove_unused(&one.digest).unwrap(), Some(stint_image::Removed::default()));
}

#[tokio::test]
async fn a_moved_tag_lets_its_old_layers_go() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let old = image(&[(Tar::new().file("old", "").end(), gzip)]);
    let new = image(&[(Tar::new().file("new", "").end(), gzip)]);
    store.import(tar_of(&layout(&[("a:1", &old)]))).await.unwrap();
    let image = store.import(tar_of(&layout(&[("a:1", &new)]))).await.unwrap().remove(0);
    assert!(image.layers[0].join("new").exists());
    assert_eq!((store.count("layers"), store.count("blobs")), (1, 2));
}

#[tokio::test]
async fn a_digest_finds_the_image_of_a_tag_in_its_repository_only() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let built = small_image();
    store.import(tar_of(&layout(&[("a:1", &built)]))).await.unwrap();
    let at = |repository: &str| name(&format!("{repository}@{}", built.digest()));
    let found = store.store.get(&at("a")).unwrap().unwrap();
    assert_eq!(found.repo_digest(), at("a"));
    assert!(store.store.get(&name(&format!("a:2@{}", built.digest()))).unwrap().is_some(), "the digest decides");
    assert!(store.store.get(&at("b")).unwrap().is_none());
    assert!(store.store.get(&name("a:2")).unwrap().is_none());
    assert_eq!(store.store.remove(&at("a")).unwrap().references, [name("a:1")]);
}

#[tokio::test]
async fn the_platform_is_chosen_and_what_exists_is_named_when_none_fits() {
    if !is_root() {
        return;
    }
    let (ours, _) = platform();
    let mine = small_image();
    let other = image_for("s390x", &[(Tar::new().file("other", "").end(), gzip)]);
    let index = index_of(&[("s390x", &other), (ours, &mine)]);
    let nested = |index: &[u8]| {
        let digest = stint_image::Digest::of(index);
        let mut files = layout(&[("x:1", &mine), ("x:1", &other)]);
        files.retain(|(path, _)| path != "index.json");
        files.push((format!("blobs/sha256/{}", digest.hex()), index.to_vec()));
        let json = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest.to_string(), "size": index.len(), "annotations": {"org.opencontainers.image.ref.name": "x:1"}}]});
        files.push(("index.json".to_owned(), serde_json::to_vec(&json).unwrap()));
        tar_of(&files)
    };
    let store = Store::new();
    let image = store.import(nested(&index)).await.unwrap().remove(0);
    check_small(&image);
    assert_eq!(image.index, Some(stint_image::Digest::of(&index)));
    assert_eq!(image.repo_digest().digest(), image.index.as_ref());

    let text = Store::new()
        .import(nested(&index_of(&[("s390x", &other), ("riscv64", &other)])))
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("linux/s390x, linux/riscv64") && text.contains(&format!("linux/{ours}")), "{text}");
    // One image alone, for another machine.
    let text = Store::new().import(tar_of(&layout(&[("x:1", &other)]))).await.unwrap_err().to_string();
    assert!(text.contains("linux/s390x"), "{text}");
}

#[tokio::test]
async fn an_archive_without_a_name_asks_for_one() {
    if !is_root() {
        return;
    }
    let built = small_image();
    let mut files = layout(&[("latest", &built)]);
    let index = files.last_mut().unwrap();
    let bare = String::from_utf8(index.1.clone())
        .unwrap()
        .replace("io.containerd.image.name", "org.opencontainers.image.ref.name");
    index.1 = bare.into_bytes();
    let store = Store::new();
    let error = store.import(tar_of(&files)).await.unwrap_err();
    assert!(matches!(error, Error::Unnamed { .. }), "{error}");
    let how = Import { name: Some(name("mine:1")), ..Import::default() };
    assert_eq!(store.import_as(tar_of(&files), &how).await.unwrap()[0].reference, name("mine:1"));

    // With both tables in it, as newer `docker save` writes, the names are in the other one.
    let saved = serde_json::json!([{"Config": format!("blobs/sha256/{}", stint_image::Digest::of(&built.config).hex()),
        "RepoTags": ["one:1", "two:2"], "Layers": []}]);
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&saved).unwrap()));
    let images = store.import(tar_of(&files)).await.unwrap();
    assert_eq!(images.iter().map(|image| image.reference.familiar()).collect::<Vec<_>>(), ["one:1", "two:2"]);
    assert!(store.import_as(tar_of(&layout(&[("a:1", &built), ("b:1", &built)])), &how).await.is_err());
}

#[tokio::test]
async fn damaged_archives_leave_nothing_behind() {
    if !is_root() {
        return;
    }
    let built = small_image();
    let files = layout(&[("a:1", &built)]);
    let with = |change: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        change(&mut files);
        tar_of(&files)
    };
    let layer = |files: &[(String, Vec<u8>)]| {
        files.iter().position(|(path, bytes)| path.starts_with("blobs") && bytes.starts_with(&[0x1f, 0x8b])).unwrap()
    };
    let config = format!("blobs/sha256/{}", stint_image::Digest::of(&built.config).hex());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "a flipped bit in a layer",
            with(&|files| {
                let place = layer(files);
                let middle = files[place].1.len() / 2;
                files[place].1[middle] ^= 1;
            }),
            "digest is",
        ),
        (
            "a layer cut short",
            with(&|files| {
                let place = layer(files);
                let short = files[place].1.len() - 9;
                files[place].1.truncate(short);
            }),
            "digest is",
        ),
        (
            "a layer with more behind it",
            with(&|files| {
                let place = layer(files);
                files[place].1.push(0);
            }),
            "digest is",
        ),
        ("a layer missing", with(&|files| drop(files.remove(layer(files)))), "lacks layer"),
        ("a configuration missing", with(&|files| files.retain(|(path, _)| *path != config)), "lacks"),
        (
            "a changed configuration",
            with(&|files| {
                for (path, bytes) in files.iter_mut() {
                    if *path == config {
                        bytes.push(b' ');
                    }
                }
            }),
            "digest is",
        ),
        ("no index", with(&|files| files.retain(|(path, _)| path != "index.json")), "no image"),
        ("an empty archive", Vec::new(), "no image"),
        ("something else", b"{\"hello\": 1}".repeat(100), "malformed"),
        ("xz", [&[0xfd, b'7', b'z', b'X', b'Z', 0][..], &[0; 600]].concat(), "xz"),
        ("half an archive", tar_of(&files)[..5000].to_vec(), ""),
        ("half a compressed archive", gzip(&tar_of(&files))[..900].to_vec(), ""),
    ];
    let store = Store::new();
    for (case, bytes, expected) in cases {
        let text = store.import(bytes).await.expect_err(case).to_string();
        assert!(text.contains(expected), "{case}: {text}");
        assert!(store.store.list().unwrap().is_empty(), "{case}");
        assert_eq!(store.count("work"), 0, "{case}");
    }
    store.store.sweep().unwrap();
    assert_eq!((store.count("layers"), store.count("blobs")), (0, 0));
    let small = Import { limits: Limits { bytes: 4096, ..Limits::default() }, ..Import::default() };
    let text = store.import_as(tar_of(&files), &small).await.unwrap_err().to_string();
    assert!(text.contains("limit"), "{text}");
}

#[tokio::test]
async fn a_layer_whose_content_is_not_the_promised_one_is_refused() {
    if !is_root() {
        return;
    }
    let mut built = image(&[(Tar::new().file("a", "").end(), gzip)]);
    let other = image(&[(Tar::new().file("b", "").end(), gzip)]);
    // The configuration of one image with the layer of another: each is what its digest says, but not together.
    built.manifest = {
        let mut manifest: serde_json::Value = serde_json::from_slice(&other.manifest).unwrap();
        let mine: serde_json::Value = serde_json::from_slice(&built.manifest).unwrap();
        manifest["config"] = mine["config"].clone();
        serde_json::to_vec(&manifest).unwrap()
    };
    built.blobs.extend(other.blobs);
    built.blobs.insert(built.digest().to_string(), built.manifest.clone());
    let error = Store::new().import(tar_of(&layout(&[("a:1", &built)]))).await.unwrap_err();
    assert!(matches!(&error, Error::DigestMismatch { what, .. } if what.contains("content")), "{error}");
}

#[tokio::test]
async fn a_layout_folder_cannot_lead_outside_itself() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let folder = store.folder.path().join("layout");
    write_folder(&folder, &layout(&[("a:1", &small_image())]));
    fs::remove_file(folder.join("index.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("index.json")).unwrap();
    let error = store.store.import(Source::Path(folder), &Import::default(), &NoProgress).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_layer_that_comes_twice_is_one_lower_folder() {
    if !is_root() {
        return;
    }
    let twice = (Tar::new().file("a", "").end(), gzip as Compress);
    let built = image(&[twice.clone(), (Tar::new().file(".wh.a", "").end(), gzip), twice]);
    let store = Store::new();
    let image = store.import(tar_of(&layout(&[("a:1", &built)]))).await.unwrap().remove(0);
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers[0].join("a").metadata().unwrap().is_file());
}

#[tokio::test]
async fn an_opaque_root_hides_the_layers_below() {
    if !is_root() {
        return;
    }
    let built = image(&[
        (Tar::new().file("a", "").end(), gzip),
        (Tar::new().file(".wh..wh..opq", "").file("b", "").end(), gzip),
    ]);
    let store = Store::new();
    let image = store.import(tar_of(&layout(&[("a:1", &built)]))).await.unwrap().remove(0);
    assert_eq!(image.layers.len(), 1);
    assert!(image.layers[0].join("b").exists());
}

/// The kernel's own overlay is asked, in a mount namespace that goes with the command.
#[tokio::test]
async fn the_overlay_shows_what_the_layers_say() {
    if !is_root() {
        return;
    }
    let lower =
        Tar::new().file("gone", "").file("dir/below", "").file("swapped/below", "").file("kept", "").file("f", "");
    let upper = Tar::new()
        .file(".wh.gone", "")
        .file("dir/.wh..wh..opq", "")
        .file("dir/above", "")
        .file(".wh.swapped", "")
        .file("swapped/above", "")
        .file("f/now-a-folder", "");
    let store = Store::new();
    let built = image(&[(lower.end(), gzip), (upper.end(), zstd)]);
    let image = store.import(tar_of(&layout(&[("a:1", &built)]))).await.unwrap().remove(0);
    let lowerdir: Vec<_> = image.layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let script = "mount -t overlay none -o lowerdir=$0 $1 && cd $1 && find . -mindepth 1 | sort";
    let mountpoint = store.folder.path().join("merged");
    fs::create_dir(&mountpoint).unwrap();
    let shown = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script, &lowerdir.join(":"), mountpoint.to_str().unwrap()])
        .output();
    let Some(shown) = shown.ok().filter(|shown| shown.status.success()) else {
        eprintln!("skipped: cannot mount an overlay here");
        return;
    };
    let expected = "./dir ./dir/above ./f ./f/now-a-folder ./kept ./swapped ./swapped/above";
    assert_eq!(String::from_utf8(shown.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" "), expected);
}

#[tokio::test]
async fn users_are_found_as_the_merged_image_shows_them() {
    if !is_root() {
        return;
    }
    let passwd = |name: &str, uid: u32| format!("{name}:x:{uid}:{uid}::/home/{name}:\n");
    let cases: Vec<(&str, Vec<Tar>, Option<u32>)> = vec![
        (
            "the upper layer's file",
            vec![Tar::new().file("etc/passwd", passwd("app", 1)), Tar::new().file("etc/passwd", passwd("app", 2))],
            Some(2),
        ),
        (
            "a file from below",
            vec![Tar::new().file("etc/passwd", passwd("app", 1)), Tar::new().file("etc/other", "")],
            Some(1),
        ),
        (
            "a whiteout",
            vec![Tar::new().file("etc/passwd", passwd("app", 1)), Tar::new().file("etc/.wh.passwd", "")],
            None,
        ),
        (
            "an opaque folder",
            vec![Tar::new().file("etc/passwd", passwd("app", 1)), Tar::new().file("etc/.wh..wh..opq", "")],
            None,
        ),
        (
            "a whiteout of the folder",
            vec![Tar::new().file("etc/passwd", passwd("app", 1)), Tar::new().file(".wh.etc", "")],
            None,
        ),
        (
            "a link inside the image",
            vec![Tar::new().file("usr/lib/passwd", passwd("app", 3)).symlink("etc/passwd", "../usr/lib/passwd")],
            Some(3),
        ),
        (
            "a link across layers",
            vec![
                Tar::new().file("usr/lib/passwd", passwd("app", 3)),
                Tar::new().symlink("etc/passwd", "/usr/../usr/lib/passwd"),
            ],
            Some(3),
        ),
        ("a linked folder", vec![Tar::new().file("real/passwd", passwd("app", 4)).symlink("etc", "real")], Some(4)),
        (
            "a link above the root",
            vec![Tar::new().file("p", passwd("app", 5)).symlink("etc/passwd", "../../../../p")],
            Some(5),
        ),
        (
            "a folder over a file",
            vec![Tar::new().file("etc", ""), Tar::new().file("etc/passwd", passwd("app", 6))],
            Some(6),
        ),
        (
            "a file over a folder",
            vec![Tar::new().file("etc/passwd", passwd("app", 7)), Tar::new().file("etc", "")],
            None,
        ),
        ("a pipe, which would never end", vec![Tar::new().raw("etc/passwd", b'6', b"")], None),
        ("a device", vec![Tar::new().device("etc/passwd", b'3', 1, 5)], None),
        ("nothing", vec![Tar::new().file("x", "")], None),
    ];
    for (case, layers, expected) in cases {
        let layers: Vec<_> = layers.into_iter().map(|tar| (tar.end(), gzip as Compress)).collect();
        let store = Store::new();
        let found = store.import(tar_of(&layout(&[("a:1", &image(&layers))]))).await.unwrap().remove(0);
        assert_eq!(found.resolve_user("app").ok().map(|user| user.uid), expected, "{case}");
        assert_eq!(found.resolve_user("42").unwrap().uid, 42, "{case}");
    }
    let host_link =
        Tar::new().symlink("etc/passwd", "/etc/passwd").symlink("etc/group", "loop").symlink("etc/loop", "group");
    let store = Store::new();
    let found = store.import(tar_of(&layout(&[("a:1", &image(&[(host_link.end(), gzip)]))]))).await.unwrap().remove(0);
    assert!(found.resolve_user("root").is_err(), "a link to itself, not to the host's file");
    let huge = Tar::new().file("etc/passwd", vec![b'x'; 5 << 20]);
    let found = store.import(tar_of(&layout(&[("b:1", &image(&[(huge.end(), gzip)]))]))).await.unwrap().remove(0);
    assert!(found.resolve_user("root").unwrap_err().to_string().contains("larger"), "bounded");
}

#[tokio::test]
async fn getting_an_image_takes_less_than_a_millisecond() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let layers: Vec<_> = (0..20).map(|n| (Tar::new().file(&format!("f{n}"), "").end(), gzip as Compress)).collect();
    store.import(tar_of(&layout(&[("a:1", &image(&layers))]))).await.unwrap();
    let reference = name("a:1");
    let best = (0..50)
        .map(|_| {
            let start = Instant::now();
            store.store.get(&reference).unwrap().unwrap();
            start.elapsed()
        })
        .min()
        .unwrap();
    assert!(best < Duration::from_millis(1), "{best:?}");
    eprintln!("get of an image of 20 layers: {best:?}");
}

#[test]
fn the_store_is_closed_to_other_users() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/images");
    ImageStore::open(&path).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("layers"))), (0o700, 0o700));
}
