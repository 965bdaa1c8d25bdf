//! The ground that the cases stand on: a root filesystem, the runtimes, and one way to run a container to its end.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxResources, Spec};
use stint_runtime::zygote::ZygoteHandle;
use stint_runtime::{
    Bundle, ContainerId, Exit, Native, OciCli, Rootfs, Runtime, StartError, Stdin, Writable, default_spec,
};

/// Passed; `Some` is why it was skipped.
pub type Verdict = Result<Option<String>, String>;

#[derive(Default)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Tally {
    pub fn add(&mut self, name: &str, verdict: &Verdict, took: Duration) {
        let (count, word, why) = match verdict {
            Ok(None) => (&mut self.passed, "ok", String::new()),
            Ok(Some(why)) => (&mut self.skipped, "skipped", format!(": {why}")),
            Err(why) => (&mut self.failed, "FAILED", format!("\n      {}", why.replace('\n', "\n      "))),
        };
        *count += 1;
        println!("{word:>7}  {name} ({} ms){why}", took.as_millis());
    }
}

pub struct World {
    pub dir: PathBuf,
    pub rootfs: PathBuf,
    pub native: Native,
    /// The native runtime as it works on kernels before Linux 6.15.
    pub older: Native,
    pub runc: Option<OciCli>,
    zygote: ZygoteHandle,
    next: AtomicU32,
}

/// A container that ran to its end.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

/// What is edited before a start.
pub struct Setup {
    pub spec: Spec,
    pub rootfs: Rootfs,
    pub dir: PathBuf,
    pub id: ContainerId,
    pub stdin: Stdin,
    pub together: Option<LinuxResources>,
}

impl Setup {
    pub fn bundle(self) -> Bundle {
        let log = self.dir.join("log");
        let Setup { spec, rootfs, dir, id, stdin, together } = self;
        Bundle { id, spec, rootfs, dir, log, rotation: None, stdin, together }
    }
}

impl World {
    pub fn new(zygote: ZygoteHandle) -> Self {
        let dir = std::env::temp_dir().join(format!("stint-conformance-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        make_rootfs(&dir.join("rootfs"));
        Self::at(zygote, dir)
    }

    /// A world in a folder that has a root filesystem already.
    pub fn at(zygote: ZygoteHandle, dir: PathBuf) -> Self {
        let rootfs = dir.join("rootfs");
        let runc =
            ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"].into_iter().find(|p| Path::new(p).exists());
        let runc = runc.map(|path| OciCli::new(zygote.clone(), path));
        Self {
            dir,
            rootfs,
            native: Native::new(zygote.clone()),
            older: Native::of_older_kernels(zygote.clone()),
            runc,
            zygote,
            next: AtomicU32::new(0),
        }
    }

    /// The native runtime in both of its ways, and runc where there is one.
    pub fn runtimes(&self) -> Vec<&dyn Runtime> {
        let mut all: Vec<&dyn Runtime> = vec![&self.native, &self.older];
        all.extend(self.runc.as_ref().map(|r| r as &dyn Runtime));
        all
    }

    /// A runtime that knows of no container yet, as after a restart.
    pub fn another(&self) -> Native {
        Native::new(self.zygote.clone())
    }

    pub fn end(&self) {
        fs::remove_dir_all(&self.dir).unwrap();
        remove_cgroups();
    }

    /// A container of the default spec that runs `script` with the shell.
    pub fn setup(&self, script: &str) -> Setup {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let id = ContainerId::new(format!("c{}-{n}", std::process::id())).unwrap();
        let dir = self.dir.join(id.as_str());
        fs::create_dir(&dir).unwrap();
        let mut spec = default_spec();
        let process = spec.process_mut().as_mut().unwrap();
        process.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
        let path = PathBuf::from(format!("/{}/{id}", group()));
        spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(path));
        let rootfs = Rootfs::Overlay { lower: vec![self.rootfs.clone()], writable: Writable::Directory(dir.clone()) };
        Setup { spec, rootfs, dir, id, stdin: Stdin::Empty, together: None }
    }

    /// Starts, waits, reads the log, removes.
    pub async fn run(&self, runtime: &dyn Runtime, setup: Setup) -> Result<Ran, StartError> {
        let (id, dir) = (setup.id.clone(), setup.dir.clone());
        runtime.start(setup.bundle()).await?;
        let exit = runtime.wait(&id).await.unwrap();
        let ran = read(&dir, exit);
        runtime.remove(&id).await.unwrap();
        Ok(ran)
    }

    /// Runs a script in a container of the default spec.
    pub async fn script(&self, script: &str) -> Ran {
        self.run(&self.native, self.setup(script)).await.unwrap()
    }
}

pub fn read(dir: &Path, exit: Exit) -> Ran {
    let log = fs::read(dir.join("log")).unwrap_or_default();
    Ran { exit, stdout: stream(&log, "stdout"), stderr: stream(&log, "stderr") }
}

/// What a container wrote to one stream, put together from its log.
pub fn stream(log: &[u8], name: &str) -> String {
    let mut text = Vec::new();
    for line in log.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let mut fields = line.splitn(4, |&b| b == b' ');
        let (time, stream, tag, rest) = (fields.next(), fields.next(), fields.next(), fields.next());
        assert!(time.is_some_and(|t| t.len() == 30 && t.ends_with(b"Z")), "{}", String::from_utf8_lossy(line));
        if stream == Some(name.as_bytes()) {
            text.extend_from_slice(rest.unwrap_or_default());
            match tag {
                Some(b"F") => text.push(b'\n'),
                Some(b"P") => {}
                _ => panic!("{}", String::from_utf8_lossy(line)),
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// How long a case waits for what has to happen: a machine may be busy with much else.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if holds() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("waited {PATIENCE:?} in vain for: {what}"))
}

/// The setting that names the cgroup of this suite, which nobody else has: its processes share it.
pub const GROUP: &str = "STINT_CONFORMANCE_CGROUP";

pub fn group() -> String {
    std::env::var(GROUP).unwrap()
}

/// Runs the suite again where nobody else mounts anything, and with a cgroup of its own: it counts both.
pub fn alone(args: &[String]) {
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap()).args(args);
    let ended = command.env(GROUP, format!("stint-test-{}", std::process::id())).status().expect("there is unshare");
    std::process::exit(ended.code().unwrap_or(1));
}

/// Processes of this name that this one, or what it started, has started, and that have not ended.
pub fn ours(name: &str) -> usize {
    let parents: HashMap<u32, (u32, bool)> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (begin, rest) = stat.rsplit_once(") ")?;
            let (pid, comm) = begin.split_once(" (")?;
            let mut fields = rest.split(' ');
            let has_ended = fields.next()? == "Z";
            let is_wanted = comm == name && !has_ended;
            Some((pid.parse().ok()?, (fields.next()?.parse().ok()?, is_wanted)))
        })
        .collect();
    let is_ours = |pid: &u32| {
        let mut ancestors = std::iter::successors(Some(*pid), |pid| Some(parents.get(pid)?.0));
        ancestors.any(|ancestor| ancestor == std::process::id())
    };
    parents.iter().filter(|(pid, (_, is_wanted))| *is_wanted && is_ours(pid)).count()
}

/// busybox under all of its names, and the folders that every image has.
pub fn make_rootfs(root: &Path) {
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home", "var"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let names = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(names).unwrap().lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
    fs::set_permissions(root.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
}

/// Cgroup folders of this suite that are left.
pub fn cgroups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let tops = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path().join(group()));
    for top in tops.chain([Path::new("/sys/fs/cgroup").join(group())]) {
        for entry in fs::read_dir(&top).into_iter().flatten().flatten() {
            let shared = entry.file_name().to_string_lossy().starts_with("devices-");
            if entry.path().is_dir() && !shared {
                found.push(entry.path());
            }
        }
    }
    found
}

fn remove_cgroups() {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|hierarchy| hierarchy.path());
    for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let top = hierarchy.join(group());
        for entry in fs::read_dir(&top).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&top);
    }
}
