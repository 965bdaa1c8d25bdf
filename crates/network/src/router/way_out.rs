//! The way out of the router: a program of the machine's that carries what comes by an interface `tap0` in the router to the machine's
//! network, by sockets as any program of the user's has them.
//!
//! ```text
//!  find ── runs ──────────────────────► watch ── ends ──► told, and after a while ─┐
//!    └── none ──► start ──► tap0 is up ───┘                                        │
//!                   ▲ └── ends ────────────────────────────────────────────────────┤
//!                   └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: there is one at a time, since each has the interface of that name; pods reach neither the machine's loopback nor
//! ports that the program would open by itself.
//! Left out: IPv6, which pods do not have.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stint_runtime::rootless::Companion;

use super::{Router, RouterConfig};
use crate::links::{Links, Route};
use crate::subnet::Subnet;

/// What the interface is called.
const TAP: &str = "tap0";
/// The addresses that are looked through for a block of the way out's own.
const RANGE: &str = "10.86.0.0/16";
const BLOCK: u8 = 24;
/// The longest packet, in bytes: what goes through here is no packet on any wire.
const MTU: &str = "65520";
/// How long until it is started again, at first and at most. One that ran for longer than the latter begins anew.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));
/// How often is looked whether it is there yet.
const GLANCE: Duration = Duration::from_millis(10);
/// How long the daemon waits for it before it goes on without.
const PATIENCE: Duration = Duration::from_mins(1);

/// What connects the router, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// `pasta`, of the package passt.
    Pasta(PathBuf),
    /// `slirp4netns`.
    Slirp4netns(PathBuf),
}

impl Program {
    /// The first that `find` finds by its name.
    pub fn find(find: impl Fn(&str) -> Option<PathBuf>) -> Option<Program> {
        let pasta = find("pasta").map(Program::Pasta);
        pasta.or_else(|| find("slirp4netns").map(Program::Slirp4netns))
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Program::Pasta(_) => "pasta",
            Program::Slirp4netns(_) => "slirp4netns",
        }
    }

    /// How it is started: the router has the 100th address of the block, and what is behind the program the second.
    fn command(&self, namespace: &Path, block: Subnet) -> Command {
        let address = |number: u32| Ipv4Addr::from(u32::from(block.base()) + number).to_string();
        match self {
            Program::Pasta(path) => {
                let mut command = Command::new(path);
                command.args(["--foreground", "--quiet", "--ipv4-only", "--config-net", "--no-map-gw"]);
                command.args(["--no-dhcp", "--no-ra", "--no-ndp", "--no-dhcpv6", "--mtu", MTU, "--ns-ifname", TAP]);
                // It would open every port that something in there listens at, and the other way round.
                command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
                command.args(["--address", &address(100), "--netmask", &block.bits().to_string()]);
                command.args(["--gateway", &address(2), "--netns"]).arg(namespace);
                command
            }
            Program::Slirp4netns(path) => {
                let mut command = Command::new(path);
                command.args(["--configure", "--disable-host-loopback", "--disable-dns", "--enable-sandbox"]);
                command.args([format!("--mtu={MTU}"), format!("--cidr={block}"), "--netns-type=path".to_owned()]);
                command.arg(namespace).arg(TAP);
                command
            }
        }
    }
}

/// What keeps the program running. Dropping it leaves the program as it is.
#[derive(Debug)]
pub(super) struct WayOut {
    record: PathBuf,
    /// Dropped, it ends the thread.
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl WayOut {
    /// Finds the program or starts it, from this thread's network, and returns when that is done or has failed.
    pub(super) fn open(config: &RouterConfig, router: Router) -> io::Result<WayOut> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (tell, told) = mpsc::channel();
        let record = config.folder.join("way-out");
        let keeper = Keeper { config: config.clone(), router, record: record.clone(), stopped };
        let thread = std::thread::Builder::new().name("stint-way-out".to_owned());
        let thread = thread.spawn(move || keeper.run(&tell))?;
        if told.recv_timeout(PATIENCE).is_err() {
            tracing::warn!("{} takes long to connect pods to this machine's network", config.program.name());
        }
        Ok(WayOut { record, stop, thread })
    }

    /// Leaves the program running.
    pub(super) fn leave(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }

    /// Ends it.
    pub(super) fn close(self) -> io::Result<()> {
        let record = self.record.clone();
        self.leave();
        Companion::find(&record).map_or(Ok(()), Companion::end)
    }
}

struct Keeper {
    config: RouterConfig,
    router: Router,
    /// Who the program is.
    record: PathBuf,
    /// Says by its end that it is enough.
    stopped: OwnedFd,
}

impl Keeper {
    fn run(self, tell: &mpsc::Sender<()>) {
        let name = self.config.program.name();
        let mut pause = AGAIN.0;
        loop {
            let began = Instant::now();
            match Companion::find(&self.record).map_or_else(|| self.start(), Ok) {
                Ok(mut companion) => {
                    if self.is_up_before(&companion) {
                        let _ = tell.send(());
                        if self.wait(Some(&companion), None) == Woken::Stopped {
                            return;
                        }
                    }
                    companion.reap();
                    if self.wait(None, Some(Duration::ZERO)) == Woken::Stopped {
                        return;
                    }
                    let said = self.last_words();
                    tracing::warn!(
                        "{name} has ended, and pods reach each other only until it is started again: {said}"
                    );
                }
                Err(error) => tracing::warn!(%error, "can't start {name}, and pods reach each other only"),
            }
            let _ = tell.send(());
            if began.elapsed() > AGAIN.1 {
                pause = AGAIN.0;
            }
            if self.wait(None, Some(pause)) == Woken::Stopped {
                return;
            }
            pause = AGAIN.1.min(pause * 2);
        }
    }

    fn start(&self) -> io::Result<Companion> {
        let links = self.router.within(Links::here)?;
        // Of one that nobody has written down.
        if let Some(tap) = links.find(TAP)? {
            links.delete(tap)?;
        }
        let routes = [Links::here()?.routes()?, links.routes()?].concat();
        let block = free_block(&routes, self.config.subnet).ok_or_else(|| {
            io::Error::other(format!("this machine has routes to every block of {RANGE}, and one is needed"))
        })?;
        let mut command = self.config.program.command(&self.config.namespace, block);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(self.log())?).current_dir("/");
        Companion::start(&self.config.user, &self.record, &mut command)
    }

    /// Waits until the program leads out, or has ended.
    fn is_up_before(&self, companion: &Companion) -> bool {
        let leads_out = || {
            let routes = self.router.within(Links::here).and_then(|links| links.routes());
            routes.is_ok_and(|routes| routes.iter().any(|route| route.to.bits() == 0))
        };
        while !leads_out() {
            if self.wait(Some(companion), Some(GLANCE)) != Woken::ByTime {
                return false;
            }
        }
        true
    }

    fn wait(&self, companion: Option<&Companion>, limit: Option<Duration>) -> Woken {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut all = vec![PollFd::new(&self.stopped, PollFlags::IN)];
        all.extend(companion.map(|companion| PollFd::from_borrowed_fd(companion.as_fd(), PollFlags::IN)));
        while poll(&mut all, limit.as_ref()) == Err(rustix::io::Errno::INTR) {}
        let is_ready = |at: usize| all.get(at).is_some_and(|one| !one.revents().is_empty());
        match (is_ready(0), is_ready(1)) {
            (true, _) => Woken::Stopped,
            (false, true) => Woken::ByEnd,
            (false, false) => Woken::ByTime,
        }
    }

    fn log(&self) -> PathBuf {
        self.config.folder.join("way-out.log")
    }

    /// What the program said at last.
    fn last_words(&self) -> String {
        last_words(&String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// It is enough.
    Stopped,
    /// The program has ended.
    ByEnd,
    ByTime,
}

/// A block of addresses that leads nowhere yet.
fn free_block(routes: &[Route], pods: Option<Subnet>) -> Option<Subnet> {
    let range: Subnet = RANGE.parse().expect("the range is one");
    let is_free = |block: &Subnet| {
        let overlaps = |other: Subnet| other.bits() > 1 && other.overlaps(*block);
        !routes.iter().any(|route| overlaps(route.to)) && !pods.is_some_and(overlaps)
    };
    range.parts(BLOCK).find(is_free)
}

/// The last lines that tell something: where there is no system log an old pasta complains of that.
fn last_words(log: &str) -> String {
    let lines: Vec<&str> =
        log.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("syslog")).collect();
    match &lines[lines.len().saturating_sub(3)..] {
        [] => "it said nothing".to_owned(),
        last => last.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn the_way_out_takes_addresses_that_lead_nowhere() {
        let route = |text: &str| Route { to: subnet(text), by: None };
        let cases: [(&[&str], Option<&str>, Option<&str>); 4] = [
            (&["0.0.0.0/0", "10.85.0.0/22"], None, Some("10.86.0.0/24")),
            (&["10.86.0.0/23", "10.86.2.128/25"], None, Some("10.86.3.0/24")),
            (&[], Some("10.86.0.0/22"), Some("10.86.4.0/24")),
            (&["10.0.0.0/8"], None, None),
        ];
        for (routes, pods, block) in cases {
            let routes: Vec<Route> = routes.iter().copied().map(route).collect();
            assert_eq!(free_block(&routes, pods.map(subnet)), block.map(subnet), "{routes:?}");
        }
    }

    #[test]
    fn pasta_comes_before_slirp4netns_and_neither_opens_the_loopback() {
        let both = |name: &str| Some(PathBuf::from("/bin").join(name));
        assert_eq!(Program::find(both), Some(Program::Pasta("/bin/pasta".into())));
        let one = |name: &str| both(name).filter(|_| name == "slirp4netns");
        assert_eq!(Program::find(one), Some(Program::Slirp4netns("/bin/slirp4netns".into())));
        assert_eq!(Program::find(|_| None), None);
        let shown = |program: &Program| format!("{:?}", program.command(Path::new("/ns"), subnet("10.86.1.0/24")));
        let pasta = shown(&Program::find(both).unwrap());
        for word in ["--no-map-gw", r#""-T" "none""#, "10.86.1.100", r#""--gateway" "10.86.1.2""#] {
            assert!(pasta.contains(word), "{pasta}");
        }
        let slirp = shown(&Program::find(one).unwrap());
        assert!(slirp.contains("--disable-host-loopback") && slirp.contains("--cidr=10.86.1.0/24"), "{slirp}");
    }

    #[test]
    fn what_a_program_says_at_last_is_told() {
        let log = "a\nFailed to send 46 bytes to syslog\n\nNo external routable interface for IPv4\nb\nc\n";
        assert_eq!(last_words(log), "No external routable interface for IPv4; b; c");
        assert_eq!(last_words("\n"), "it said nothing");
    }
}
