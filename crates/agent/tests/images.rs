//! Images that pods hold, and that go when nobody does.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::json;
use stint_agent::{Gauge, Measured, RootfsMode};
use stint_core::pressure::{Amount, ImageDisk, ImagePolicy, PodUsage, Readings, Signal};
use stint_image::{Access, Digest, ImageStore, Import, NoProgress, Source};
use support::World;

/// A machine whose disk is as full as a test says.
#[derive(Default)]
struct Told(Mutex<Readings>);

impl Told {
    fn disk(&self, available: u64) {
        self.0.lock().unwrap().insert(Signal::ImagefsAvailable, Amount { available, capacity: 1000 });
    }
}

impl Gauge for Told {
    fn read(&self) -> Readings {
        self.0.lock().unwrap().clone()
    }

    fn image_disk(&self) -> ImageDisk {
        ImageDisk::Shared
    }

    fn pods(&self, pods: &[Measured], _: Signal) -> Vec<Option<PodUsage>> {
        pods.iter().map(|_| None).collect()
    }
}

fn rootfs(data: &Path) -> RootfsMode {
    RootfsMode::Image { store: store(data), access: Access::default() }
}

fn store(data: &Path) -> ImageStore {
    ImageStore::open(&data.join("images")).unwrap()
}

/// `false`, with a notice, where layers can't be unpacked.
fn can_unpack() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: files of images have owners, which needs root");
    }
    is_root
}

fn tar(folder: &Path, to: &Path, what: &str) {
    let status = Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(to).args(what.split(' ')).status().unwrap();
    assert!(status.success());
}

/// An image with one layer, in which nothing but its name is.
async fn import(store: &ImageStore, name: &str) {
    import_configured(store, name, json!({})).await;
}

/// The same with what the image says of how it runs.
async fn import_configured(store: &ImageStore, name: &str, run: serde_json::Value) {
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("name"), name).unwrap();
    let (layer, archive) = (work.path().join("layer.tar"), work.path().join("image.tar"));
    tar(work.path(), &layer, "name");
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&std::fs::read(&layer).unwrap())] },
    });
    std::fs::write(work.path().join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    std::fs::write(work.path().join("manifest.json"), manifest.to_string()).unwrap();
    tar(work.path(), &archive, "manifest.json config.json layer.tar");
    store.import(Source::Path(archive), &Import::default(), &NoProgress).await.unwrap();
}

fn names(store: &ImageStore) -> Vec<String> {
    store.list().unwrap().iter().map(|image| image.reference.familiar()).collect()
}

/// Waits until it holds; the clock of these tests is real.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..12_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited too long until {what}");
}

#[tokio::test]
async fn images_that_nobody_uses_go_when_the_disk_fills_up_and_a_disk_that_stays_full_is_told() {
    if !can_unpack() {
        return;
    }
    let told = Arc::new(Told::default());
    told.disk(500);
    let gauge = Arc::clone(&told);
    let world = World::configured(rootfs, move |config| {
        config.images = Some(ImagePolicy::default());
        config.collect_period = Duration::from_millis(50);
        config.gauge = gauge.clone();
    });
    let store = store(world.data.path());
    for name in ["old:1", "used:1", "ended:1"] {
        import(&store, name).await;
    }
    for (name, script) in [("ended", ["1", "0"]), ("used", ["1000000", "0"])] {
        let image = format!("{name}:1");
        let container = json!({"name": "c", "image": image, "imagePullPolicy": "Never", "command": script});
        world.create(name, json!({"restartPolicy": "Never", "containers": [container]})).await;
    }
    world.phase("ended", "Succeeded").await;
    world.phase("used", "Running").await;
    until("only a running container holds its image", async || {
        store.usage().unwrap().iter().filter(|image| !image.owners.is_empty()).count() == 1
    })
    .await;
    assert_eq!(names(&store).len(), 3, "there is room");
    told.disk(149);
    until("what nobody uses is gone", async || names(&store) == ["used:1"]).await;
    // Files of some bytes are not what fills it up.
    until("that is told, and told again", async || {
        let events = world.events_of_node().await;
        ["FreeDiskSpaceFailed", "ImageGCFailed"].iter().all(|reason| events.iter().any(|event| event.contains(reason)))
    })
    .await;
    let events = world.events_of_node().await;
    let full = "Warning FreeDiskSpaceFailed: Insufficient free disk space on the node's image filesystem (86% of 1000 B used).";
    assert!(events.iter().any(|event| event.starts_with(full)), "{events:?}");
}

#[tokio::test]
async fn what_a_pod_held_that_went_while_no_agent_was_there_is_given_back() {
    if !can_unpack() {
        return;
    }
    let mut world = World::with(rootfs);
    let store = store(world.data.path());
    import(&store, "a:1").await;
    for name in ["stays", "swept", "lost"] {
        let container = json!({"name": "c", "image": "a:1", "imagePullPolicy": "Never", "command": ["1000000"]});
        world.create(name, json!({"restartPolicy": "Never", "containers": [container]})).await;
        world.phase(name, "Running").await;
    }
    let uid = |name: &'static str| {
        let pods = world.pods.clone();
        async move { pods.get(name).await.unwrap().metadata.uid.unwrap() }
    };
    let (stays, lost) = (uid("stays").await, uid("lost").await);
    let image = store.list().unwrap().remove(0);
    store.lease(&image, "another.0000_c_0").unwrap();
    assert_eq!(store.leases().unwrap().len(), 4);
    world.crash_agent().await;
    for name in ["swept", "lost"] {
        world.delete(name, 0).await;
    }
    // As after a reboot: what was in memory is gone.
    std::fs::remove_dir_all(world.data.path().join("pods").join(&lost)).unwrap();
    world.start_agent();
    let expected = ["another.0000_c_0".to_owned(), format!("test.{stays}_c_0")];
    until("only those are held that are needed", async || store.leases().unwrap() == expected).await;
    world.phase("stays", "Running").await;
}

#[tokio::test]
async fn a_container_is_stopped_by_the_signal_that_its_image_names_also_by_the_next_agent() {
    if !can_unpack() {
        return;
    }
    let mut world = World::with(rootfs);
    import_configured(&store(world.data.path()), "a:1", json!({ "StopSignal": "SIGUSR1" })).await;
    let container = json!({"name": "c", "image": "a:1", "imagePullPolicy": "Never", "command": ["1000000", "0"]});
    let mut own = container.clone();
    own["name"] = json!("own");
    own["lifecycle"] = json!({ "stopSignal": "SIGINT" });
    let spec = json!({"restartPolicy": "Never", "os": {"name": "linux"}, "containers": [container, own]});
    world.create("p", spec).await;
    world.phase("p", "Running").await;
    world.wait("p", |status| status.container_statuses.iter().flatten().all(|one| one.ready)).await;
    world.crash_agent().await;
    world.start_agent();
    world.delete("p", 30).await;
    world.gone("p").await;
    let calls = world.runtime.0.calls();
    for expected in ["signal 10 c_0", "signal 2 own_0"] {
        assert!(calls.iter().any(|call| call == expected), "{calls:?}");
    }
}

#[tokio::test]
async fn a_container_whose_image_is_changed_is_started_again_from_the_new_one() {
    if !can_unpack() {
        return;
    }
    let world = World::with(rootfs);
    let store = store(world.data.path());
    for name in ["a:1", "a:2"] {
        import(&store, name).await;
    }
    let container = json!({"name": "c", "image": "a:1", "imagePullPolicy": "Never", "command": ["1000000", "0"]});
    world.create("p", json!({"restartPolicy": "Never", "containers": [container]})).await;
    world.phase("p", "Running").await;
    let change = json!({"spec": {"containers": [{"name": "c", "image": "a:2"}]}});
    world.pods.patch("p", &PatchParams::default(), &Patch::Strategic(change)).await.unwrap();
    let status = world
        .wait("p", |status| {
            let mut all = status.container_statuses.iter().flatten();
            all.any(|one| one.restart_count == 1 && one.state.as_ref().is_some_and(|state| state.running.is_some()))
        })
        .await;
    assert_eq!(status.container_statuses.unwrap()[0].image, "a:2");
    until("only the new one is held", async || {
        let held = store.usage().unwrap().into_iter().filter(|image| !image.owners.is_empty());
        held.map(|image| image.references[0].familiar()).eq(["a:2".to_owned()])
    })
    .await;
}
