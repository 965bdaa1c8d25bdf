//! A virtual machine with Debian's own kernel, for what the kernel that tests run on may not have.
//!
//! QEMU computes every instruction itself, so that it works where there is no KVM, and takes some ten times as long. The machine
//! has a serial line and nothing else: no disk, no network. Its root is what was put into it, in memory.
//!
//! Left out: udev, systemd and whatever else Debian has above its kernel.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";

/// What the machine's own script says last, with the exit code of the test's.
const ENDED: &str = "machine: the script ended with ";

/// A machine to boot, and what is in it: `stint`, busybox with all its names, and what a test puts there.
pub struct Machine {
    folder: PathBuf,
    archive: Archive,
    modules: Vec<String>,
}

/// What became of a machine.
pub struct Ended {
    /// All that came over the serial line, with the kernel's complaints.
    pub said: String,
    /// The exit code of the script; `None` if it did not come to its end in time.
    pub code: Option<i32>,
    pub took: Duration,
}

impl Machine {
    /// `None`, with a notice, where none can be had.
    pub fn new() -> Option<Machine> {
        let folder = kernel()?;
        for (program, package) in [(QEMU, "qemu-system-x86"), (BUSYBOX, "busybox-static")] {
            if !Path::new(program).exists() {
                eprintln!("skipped: {package} is not installed");
                return None;
            }
        }
        let mut machine = Machine { folder, archive: Archive::default(), modules: Vec::new() };
        machine.program(Path::new(BUSYBOX), "/bin/busybox");
        machine.program(Path::new(BUSYBOX), "/bin/sh");
        machine.program(&stint(), "/usr/bin/stint");
        machine.file("/init", 0o755, INIT.as_bytes());
        machine.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        machine.file("/etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
        machine.file("/etc/hosts", 0o644, b"127.0.0.1 localhost\n");
        machine.file("/etc/hostname", 0o644, b"machine\n");
        machine.module("overlay");
        Some(machine)
    }

    /// Puts a file into the machine.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.archive.file(path, mode, content);
    }

    /// Puts a program of this machine into that one, with the libraries that it is linked with.
    pub fn program(&mut self, from: &Path, to: &str) {
        self.file(to, 0o755, &fs::read(from).unwrap());
        let linked = Command::new("ldd").arg(from).output().unwrap();
        for path in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(path, 0o755, &fs::read(path).unwrap());
        }
    }

    /// Puts all files below a folder of this machine into that one, by the same names.
    pub fn folder(&mut self, folder: &Path) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                self.folder(&path);
            } else {
                self.file(path.to_str().unwrap(), 0o644, &fs::read(&path).unwrap());
            }
        }
    }

    /// Has a module of the kernel loaded, by its name, after those that it depends on.
    pub fn module(&mut self, name: &str) {
        let path = format!("/modules/{name}.ko");
        if self.archive.has(&path) {
            return;
        }
        let file = find(&self.folder.join("modules"), &format!("{name}.ko"));
        let content = fs::read(file.unwrap_or_else(|| panic!("Debian's kernel has no module {name}"))).unwrap();
        for needed in needs(&content) {
            self.module(&needed);
        }
        self.file(&path, 0o644, &content);
        self.modules.push(path);
    }

    /// Boots the machine, and runs a shell script in it as root, for so long at most.
    pub fn boot(mut self, script: &str, most: Duration) -> Ended {
        self.file("/modules/list", 0o644, (self.modules.join("\n") + "\n").as_bytes());
        self.file("/script", 0o755, script.as_bytes());
        let archive = tempfile::NamedTempFile::new().unwrap();
        self.archive.write(archive.as_file()).unwrap();
        let began = Instant::now();
        let mut qemu = Command::new(QEMU);
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-cpu",
            "max",
            "-m",
            "2048",
            "-no-reboot",
            "-net",
            "none",
        ]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
        qemu.arg("-kernel").arg(self.folder.join("vmlinuz")).arg("-initrd").arg(archive.path());
        // Where QEMU gets little of the processors, the kernel would take its timer for broken, and its tasks for stuck.
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check nowatchdog"]);
        let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (line, complaints) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let read =
            [Box::new(line) as Box<dyn Read + Send>, Box::new(complaints)].map(|from| std::thread::spawn(|| all(from)));
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > most {
                child.kill().unwrap();
                child.wait().unwrap();
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = read.map(|thread| thread.join().unwrap()).concat().replace('\r', "");
        let code = said.lines().find_map(|line| line.strip_prefix(ENDED)?.parse().ok());
        Ended { said, code, took: began.elapsed() }
    }
}

/// The first program of the machine, which makes it what a script expects.
///
/// `pivot_root`, which containers are entered by, wants the root to be a mount on another one. The first root of a kernel is on
/// none, so that another mount of it comes to lie over it.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
if [ "$1" != again ]; then
    /bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /var/lib /new
    /bin/busybox --install -s /bin
    mount --bind / /new
    cd /new
    mount --move . /
    exec chroot . /init again
fi
cd /
rmdir /new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
hostname -F /etc/hostname
ip link set lo up
chmod 1777 /tmp
while read -r module; do insmod "$module"; done </modules/list
{ /script </dev/null; echo "machine: the script ended with $?"; } 2>&1 | cat
reboot -f
"#;

/// The folder with Debian's kernel, which `scripts/kernel` fetches.
fn kernel() -> Option<PathBuf> {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    let folder = FETCHED.get_or_init(|| {
        let folder = target().join("kernel");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kernel");
        let output = Command::new("timeout").args(["--kill-after=5", "300", script]).arg(&folder).output().unwrap();
        eprint!("{}", super::text(&output));
        folder
    });
    if !folder.join("vmlinuz").exists() {
        eprintln!("skipped: there is no kernel of Debian's in {}", folder.display());
        return None;
    }
    Some(folder.clone())
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_stint")).ancestors().nth(2).expect("target/debug/stint")
}

/// The program without what only debuggers read, which is half of it: all of it goes through the machine's memory.
fn stint() -> PathBuf {
    static STRIPPED: OnceLock<tempfile::TempPath> = OnceLock::new();
    let path = STRIPPED.get_or_init(|| {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let program = env!("CARGO_BIN_EXE_stint");
        let stripped = Command::new("strip").args(["-o".as_ref(), path.as_os_str(), program.as_ref()]).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(program, &path).unwrap();
        }
        path
    });
    path.to_path_buf()
}

fn all(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path()).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|own| own == name)).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}

/// The names of the modules that a module says it depends on, in its section `.modinfo`.
fn needs(module: &[u8]) -> Vec<String> {
    let mut pieces = module.split(|byte| *byte == 0);
    let list = pieces.find_map(|piece| piece.strip_prefix(b"depends=")).unwrap_or_default();
    let names = list.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// Files in the one form that a kernel takes its first root in: cpio's `newc`.
#[derive(Default)]
struct Archive {
    entries: Vec<(String, u32, Vec<u8>)>,
    paths: BTreeSet<String>,
}

impl Archive {
    fn has(&self, path: &str) -> bool {
        self.paths.contains(path.trim_start_matches('/'))
    }

    /// With the folders that it is in. What is there already stays.
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entry(&path[..end], 0o040_755, &[]);
        }
        self.entry(path, 0o100_000 | mode, content);
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        if self.paths.insert(path.to_owned()) {
            self.entries.push((path.to_owned(), mode, content.to_vec()));
        }
    }

    fn write(&self, file: &File) -> io::Result<()> {
        let mut out = BufWriter::new(file);
        // The kernel says what goes wrong before there is a /dev to whoever has this one open.
        member(&mut out, 1, "dev", 0o040_755, (0, 0), &[])?;
        member(&mut out, 2, "dev/console", 0o020_600, (5, 1), &[])?;
        for (number, (path, mode, content)) in (3..).zip(&self.entries) {
            member(&mut out, number, path, *mode, (0, 0), content)?;
        }
        member(&mut out, 0, "TRAILER!!!", 0, (0, 0), &[])?;
        out.flush()
    }
}

fn member(
    out: &mut impl Write,
    number: u32,
    path: &str,
    mode: u32,
    device: (u32, u32),
    content: &[u8],
) -> io::Result<()> {
    let (size, name_size) = (content.len(), path.len() + 1);
    write!(out, "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}", 0, 1)?;
    write!(out, "{0:08x}{0:08x}{1:08x}{2:08x}{name_size:08x}{0:08x}", 0, device.0, device.1)?;
    // The head is 110 bytes, a zero ends the name, and both the name and the content end at a multiple of four.
    let rest = |length: usize| &[0; 3][..length.next_multiple_of(4) - length];
    out.write_all(path.as_bytes())?;
    out.write_all(&[0])?;
    out.write_all(rest(110 + name_size))?;
    out.write_all(content)?;
    out.write_all(rest(size))
}
