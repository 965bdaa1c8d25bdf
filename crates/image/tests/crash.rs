//! The store among several processes: killed at any moment, and two at once.

mod support;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use stint_image::{ImageStore, Import, NoProgress, Source};
use support::*;

const FOLDER: &str = "STINT_IMAGE_TEST_FOLDER";

/// Not a test by itself: what the other process does, when a test below starts this program again.
#[tokio::test]
async fn other_process() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let store = ImageStore::open(&folder.join("images")).unwrap();
    let source = Source::Path(folder.join("archive"));
    store.import(source, &Import::default(), &NoProgress).await.unwrap();
}

fn start_other(folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "other_process", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const FILES: usize = 150;
const TIMES: u32 = 16;

/// An image of three layers with many files, so that there is time to be killed in.
fn archive(folder: &Path) {
    let layers: Vec<_> = (0..3)
        .map(|layer| {
            let mut tar = Tar::new();
            for file in 0..FILES {
                tar = tar.file(&format!("l{layer}/d{}/f{file}", file % 7), format!("{layer} {file}").repeat(300));
            }
            (tar.end(), gzip as Compress)
        })
        .collect();
    fs::write(folder.join("archive"), tar_of(&layout(&[("a:1", &image(&layers))]))).unwrap();
}

fn is_whole(store: &ImageStore) -> bool {
    let Some(image) = store.get(&"a:1".parse().unwrap()).unwrap() else { return false };
    for (place, layer) in image.layers.iter().rev().enumerate() {
        for file in 0..FILES {
            let text = fs::read_to_string(layer.join(format!("l{place}/d{}/f{file}", file % 7))).unwrap();
            assert_eq!(text, format!("{place} {file}").repeat(300));
        }
    }
    assert_eq!(image.layers.len(), 3);
    true
}

fn count(folder: &Path, name: &str) -> usize {
    fs::read_dir(folder.join("images").join(name)).map_or(0, Iterator::count)
}

#[test]
fn an_import_killed_at_any_moment_leaves_an_image_whole_or_absent() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    archive(folder.path());
    let start = Instant::now();
    assert!(start_other(folder.path()).wait().unwrap().success());
    let usual = start.elapsed();
    let store = ImageStore::open(&folder.path().join("images")).unwrap();
    assert!(is_whole(&store));
    store.remove(&"a:1".parse().unwrap()).unwrap();

    let (mut whole, mut absent, mut partly) = (0, 0, 0);
    for turn in 0..TIMES {
        let mut other = start_other(folder.path());
        sleep(usual * turn / (TIMES - 5));
        let _ = other.kill();
        let _ = other.wait();
        let store = ImageStore::open(&folder.path().join("images")).unwrap();
        assert_eq!(count(folder.path(), "work"), 0, "opening removes the leftovers");
        // What has its final name is whole, whether its image is or not.
        for layer in fs::read_dir(folder.path().join("images/layers")).unwrap() {
            let layer = layer.unwrap().path();
            assert!(layer.join("layer.json").exists());
            let files = walk(&layer.join("fs"));
            assert_eq!(files, FILES, "{}", layer.display());
            partly += 1;
        }
        if is_whole(&store) {
            whole += 1;
        } else {
            absent += 1;
        }
        store.remove(&"a:1".parse().unwrap()).unwrap();
        store.sweep().unwrap();
        assert_eq!((count(folder.path(), "layers"), count(folder.path(), "blobs")), (0, 0));
    }
    eprintln!("killed {TIMES} times: whole {whole}, absent {absent}, whole layers seen {partly}");
    assert!(absent > 0, "no kill came in time");
}

fn walk(folder: &Path) -> usize {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path) } else { 1 }
        })
        .sum()
}

#[test]
fn two_processes_import_the_same_image_at_once() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    archive(folder.path());
    let others: Vec<_> = (0..3).map(|_| start_other(folder.path())).collect();
    for mut other in others {
        assert!(other.wait().unwrap().success());
    }
    let store = ImageStore::open(&folder.path().join("images")).unwrap();
    assert!(is_whole(&store));
    assert_eq!((count(folder.path(), "layers"), count(folder.path(), "work")), (3, 0));
}

#[test]
fn sweeping_while_another_process_imports_takes_nothing_from_it() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    archive(folder.path());
    let store = ImageStore::open(&folder.path().join("images")).unwrap();
    let mut other = start_other(folder.path());
    let mut sweeps = 0;
    let status = loop {
        store.sweep().unwrap();
        sweeps += 1;
        if let Some(status) = other.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success(), "after {sweeps} sweeps");
    assert!(is_whole(&store));
}
