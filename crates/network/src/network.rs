//! The network of a node's pods: a bridge with addresses of its own, and a few namespaces on it that wait for pods.
//!
//! ```text
//!           open            take: one that is ready, at once            leave
//!  nothing ─────► bridge ──► namespace, cable, address ──► pod's ─────────────► gone
//!                   │              ▲  ▲ made ahead by a thread  │
//!                   └── close ─────┘  └─────── hand_on ─────────┘
//!                                       what bears no trace of its pod
//! ```
//!
//! Invariants: the bridge is named after its subnet, so that two daemons never take the same; an address belongs to whoever
//! made its file; what nobody claims after a restart goes.
//! Left out: IPv6 (pods have it on loopback only).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::Error;
use crate::filter::{Filter, HostPort};
use crate::links::{Cable, Index, Links, Route};
use crate::router::{Forwards, Place, Router};
use crate::sandbox::{Folder, Home};
use crate::subnet::Subnet;
use crate::traces::Traces;

/// The addresses that are looked through where none are asked for, and the size of the block that is taken of them.
pub const RANGE: &str = "10.85.0.0/16";
const BLOCK: u8 = 22;
/// Nobody has asked for so long: now something may be made ahead without being in the way.
const QUIET: Duration = Duration::from_millis(20);
/// With so few left it is done at once.
const FEW: usize = 2;
/// How many times as many as are made ahead may wait after pods that left them without a trace: as many end at once as start.
const AFTER_PODS: usize = 4;
/// Nobody has asked for so long: now one that is too many goes.
const IDLE: Duration = Duration::from_secs(1);
/// The file in the folder that tells the subnet.
const SUBNET: &str = ".subnet";
/// What a pod's interface is called in the pod.
const INTERFACE: &str = "eth0";

/// How a network is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its records are: a folder on a memory filesystem, which a reboot empties.
    pub folder: PathBuf,
    /// The pods' addresses; `None` takes a block that nobody uses.
    pub subnet: Option<Subnet>,
    /// How many namespaces are made ahead.
    pub ready: usize,
}

/// A pod's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its name among those of the node.
    pub name: String,
    /// Its namespace.
    pub path: PathBuf,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// A network of pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Folder,
    subnet: Subnet,
    filter: Mutex<Filter>,
    /// Where all of it is, of an ordinary user.
    router: Option<Router>,
    /// Host ports, where no packet filter of the machine's leads to pods.
    forwards: Mutex<Forwards>,
    /// Namespaces that no pod has yet.
    ready: Arc<Mutex<VecDeque<Sandbox>>>,
    /// How many of them there may be for a while.
    most: usize,
    /// What was done in each namespace that this daemon made, by name.
    traces: Arc<Mutex<HashMap<String, Traces>>>,
    /// What an earlier daemon left, until it is known whose it is.
    found: Mutex<Vec<String>>,
    maker: Mutex<Option<(mpsc::Sender<Work>, JoinHandle<()>)>>,
}

/// What the maker is asked for.
enum Work {
    /// A namespace, now.
    Make(oneshot::Sender<Result<Sandbox, Error>>),
    /// The number of ready ones has changed.
    Counted,
}

impl Network {
    /// Makes the network, or takes over what an earlier daemon left of it in the same folder. It blocks for some milliseconds.
    pub fn open(config: &Config) -> Result<Network, Error> {
        Network::open_here(config, &[], None)
    }

    /// The same behind a router; this thread is in the machine's network.
    pub fn open_behind(router: &Router, config: &Config) -> Result<Network, Error> {
        let routes = Links::here().and_then(|links| links.routes());
        let routes = routes.map_err(Error::failed("read this machine's routes"))?;
        let opened = router.within(|| Ok(Network::open_here(config, &routes, Some(router))));
        opened.map_err(Error::failed("enter the router of pods"))?
    }

    /// In this thread's network, with addresses that lead nowhere by these routes either.
    fn open_here(config: &Config, routes: &[Route], router: Option<&Router>) -> Result<Network, Error> {
        let failed = |attempt: &str| Error::failed(format!("{attempt} {}", config.folder.display()));
        let folder = Folder::open(&config.folder).map_err(failed("make the folder of pods' networks"))?;
        let mut found = Vec::new();
        for (name, alive) in folder.list().map_err(failed("look into the folder of pods' networks"))? {
            if alive {
                found.push(name);
            } else if !name.starts_with('.') {
                folder.remove(&name).map_err(failed("tidy up"))?;
            }
        }
        let links = Links::here().map_err(Error::failed("open a netlink socket"))?;
        let record = folder.path(SUBNET);
        let before: Option<Subnet> = fs::read_to_string(&record).ok().and_then(|text| text.trim().parse().ok());
        let (subnet, bridge) = match (before, config.subnet) {
            (Some(before), Some(wanted)) if before != wanted && found.is_empty() => {
                remove_bridge(&links, before)?;
                choose(&links, routes, config.subnet)?
            }
            (Some(before), wanted) => {
                if wanted.is_some_and(|wanted| wanted != before) {
                    tracing::warn!("pods keep the addresses {before} until none runs through a restart");
                }
                (before, take_over(&links, before, &found)?)
            }
            (None, wanted) => choose(&links, routes, wanted)?,
        };
        fs::write(&record, subnet.to_string()).map_err(failed("write into"))?;
        let network = Network::on(config, folder, subnet, bridge, found, router);
        if network.is_err() && before.is_none() {
            let _ = fs::remove_file(record);
            let _ = remove_bridge(&links, subnet);
        }
        network
    }

    fn on(
        config: &Config,
        folder: Folder,
        subnet: Subnet,
        bridge: Index,
        found: Vec<String>,
        router: Option<&Router>,
    ) -> Result<Network, Error> {
        let name = name_of(subnet);
        let links = Links::here().map_err(Error::failed("open a netlink socket"))?;
        let attempt = || format!("give {name} its address {}", subnet.gateway());
        links.add_address(bridge, subnet.gateway(), subnet).map_err(|e| Error::failed(attempt())(e))?;
        // Host ports work from the machine's loopback too.
        set(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        set("ipv4/ip_forward", "1")?;
        without_ipv6(&name)?;
        let filter = Filter::here(&name).map_err(Error::failed("open a netlink socket for packet filters"))?;
        let attempt = || format!("make the packet filter {name} (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_FIB)");
        filter.make(bridge, subnet).map_err(|e| Error::failed(attempt())(e))?;

        let ready = Arc::new(Mutex::new(VecDeque::new()));
        let traces = Arc::new(Mutex::new(HashMap::new()));
        let maker = Maker {
            folder: folder.clone(),
            subnet,
            bridge,
            mtu: mtu(&links),
            links,
            home: Home::here().map_err(Error::failed("open this machine's network namespace"))?,
            last: None,
            ready: Arc::clone(&ready),
            traces: Arc::clone(&traces),
            wanted: config.ready,
        };
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name("stint-network".to_owned());
        let thread = thread.spawn(move || maker.run(&receiver)).map_err(Error::failed("start a thread"))?;
        Ok(Network(Arc::new(Inner {
            folder,
            subnet,
            filter: Mutex::new(filter),
            router: router.cloned(),
            forwards: Mutex::default(),
            ready,
            most: config.ready * AFTER_PODS,
            traces,
            found: Mutex::new(found),
            maker: Mutex::new(Some((sender, thread))),
        })))
    }

    /// The pods' addresses.
    pub fn subnet(&self) -> Subnet {
        self.0.subnet
    }

    /// The node's address as its pods see it.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        Some(self.0.subnet.gateway())
    }

    /// Where sockets reach pods.
    pub fn place(&self) -> Place {
        Place::of(self.0.router.as_ref())
    }

    /// A namespace for a pod; it is the caller's to write down whose it is. Its host ports are open from now on.
    pub async fn take(&self, ports: &[HostPort]) -> Result<Sandbox, Error> {
        let sandbox = if let Some(sandbox) = self.take_ready() {
            sandbox
        } else {
            let (tell, told) = oneshot::channel();
            self.ask(Work::Make(tell))?;
            told.await.map_err(|_| Error::Closed)??
        };
        if let Err(error) = self.open_ports(&sandbox, ports) {
            let _ = self.leave(&sandbox, &[]).await;
            return Err(error);
        }
        Ok(sandbox)
    }

    /// One that is ready, if there is one.
    pub fn take_ready(&self) -> Option<Sandbox> {
        let taken = lock(&self.0.ready).pop_front();
        if taken.is_some() {
            let _ = self.ask(Work::Counted);
        }
        taken
    }

    /// How many networks wait for pods.
    pub fn ready(&self) -> usize {
        lock(&self.0.ready).len()
    }

    fn ask(&self, work: Work) -> Result<(), Error> {
        let maker = lock(&self.0.maker);
        let (sender, _) = maker.as_ref().ok_or(Error::Closed)?;
        sender.send(work).map_err(|_| Error::Closed)
    }

    fn open_ports(&self, sandbox: &Sandbox, ports: &[HostPort]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        let pod = address_of(&sandbox.name)?;
        let links = self.place().now(Links::here);
        let opened = links.and_then(|links| links.reflect(&cable_of(pod)));
        let opened = opened.and_then(|()| {
            let Some(router) = &self.0.router else { return lock(&self.0.filter).open(pod, ports) };
            let mut forwards = lock(&self.0.forwards);
            forwards.open(router, pod, ports)?;
            // For pods, which reach the node's address on the bridge there.
            let opened = lock(&self.0.filter).open(pod, ports);
            opened.inspect_err(|_| forwards.close(router, pod, ports))
        });
        opened.map_err(Error::failed(format!("open the host ports of {pod}")))
    }

    /// After a restart: these pods' namespaces are in use, with these host ports, and what else was found goes. Returns those
    /// that are not there.
    pub fn keep(&self, pods: &[(Sandbox, Vec<HostPort>)]) -> Vec<Sandbox> {
        let found: HashSet<String> = std::mem::take(&mut *lock(&self.0.found)).into_iter().collect();
        let mut lost = Vec::new();
        for (sandbox, ports) in pods {
            if !found.contains(&sandbox.name) {
                lost.push(sandbox.clone());
            } else if let Err(error) = self.open_ports(sandbox, ports) {
                tracing::warn!(address = sandbox.name, error = %chain(&error), "a pod's host ports are closed");
            }
        }
        let kept: HashSet<&String> = pods.iter().map(|(sandbox, _)| &sandbox.name).collect();
        for name in found.iter().filter(|name| !kept.contains(name)) {
            if let Err(error) = self.0.folder.remove(name) {
                tracing::warn!(name, %error, "failed to remove a network namespace that no pod has");
            }
        }
        lost
    }

    /// Gives up a pod's namespace, and closes its host ports. Twice is no error.
    pub async fn leave(&self, sandbox: &Sandbox, ports: &[HostPort]) -> Result<(), Error> {
        let (inner, name, ports) = (Arc::clone(&self.0), sandbox.name.clone(), ports.to_vec());
        // To let go of a mount takes the kernel a moment.
        let gone = tokio::task::spawn_blocking(move || inner.remove(&name, &ports));
        gone.await.unwrap_or(Err(Error::Closed))
    }

    /// Whether a namespace is as it was made, as far as packets and sockets tell: those are all that a pod leaves that may not
    /// change its network. Whether it may is for the caller to know.
    pub fn is_unused(&self, sandbox: &Sandbox) -> bool {
        let traces = lock(&self.0.traces);
        traces.get(&sandbox.name).is_some_and(|traces| traces.are_none().unwrap_or(false))
    }

    /// Gives up a pod's namespace that is unused, and had no host ports, for the next pod. It must not be written down as
    /// anybody's any more: it may be somebody else's before this returns.
    pub async fn hand_on(&self, sandbox: Sandbox) -> Result<(), Error> {
        let may_wait = {
            let mut ready = lock(&self.0.ready);
            let has_room = ready.len() < self.0.most;
            if has_room {
                ready.push_back(sandbox.clone());
            }
            has_room
        };
        if may_wait && self.ask(Work::Counted).is_ok() {
            return Ok(());
        }
        self.leave(&sandbox, &[]).await
    }

    /// Ends the network. With pods that go on it stays as it is, for the next daemon; else nothing of it is left.
    pub fn close(&self) -> Result<(), Error> {
        let Some((sender, thread)) = lock(&self.0.maker).take() else { return Ok(()) };
        drop(sender);
        let _ = thread.join();
        let unused: Vec<Sandbox> = lock(&self.0.ready).drain(..).collect();
        for sandbox in unused {
            self.0.remove(&sandbox.name, &[])?;
        }
        lock(&self.0.traces).clear();
        let failed = || Error::failed("look into the folder of pods' networks");
        let has_pods = self.0.folder.list().map_err(failed())?.iter().any(|(_, alive)| *alive);
        match &self.0.router {
            Some(router) if has_pods => router.leave(),
            None if has_pods => {}
            // With it goes what is in it.
            Some(router) => router.close()?,
            None => {
                let name = name_of(self.0.subnet);
                lock(&self.0.filter).remove().map_err(Error::failed(format!("remove the packet filter {name}")))?;
                let links = Links::here().map_err(Error::failed("open a netlink socket"))?;
                remove_bridge(&links, self.0.subnet)?;
            }
        }
        if has_pods {
            return Ok(());
        }
        let _ = fs::remove_file(self.0.folder.path(SUBNET));
        self.0.folder.leave();
        Ok(())
    }
}

/// Gives up the namespace of a network that no daemon of now has.
pub fn abandon(sandbox: &Sandbox) -> Result<(), Error> {
    let folder = sandbox.path.parent().map(Folder::at);
    let gone = folder.map_or(Ok(()), |folder| folder.remove(&sandbox.name));
    gone.map_err(Error::failed(format!("remove the network namespace of {}", sandbox.name)))
}

impl Inner {
    fn remove(&self, name: &str, ports: &[HostPort]) -> Result<(), Error> {
        if !ports.is_empty() {
            let pod = address_of(name)?;
            let closed = lock(&self.filter).close(pod, ports);
            closed.map_err(Error::failed(format!("close the host ports of {pod}")))?;
            if let Some(router) = &self.router {
                lock(&self.forwards).close(router, pod, ports);
            }
        }
        discard(&self.folder, &self.traces, name)
            .map_err(Error::failed(format!("remove the network namespace of {name}")))
    }
}

/// Removes a namespace that this daemon may have made: what looks at it holds it, too.
fn discard(folder: &Folder, traces: &Mutex<HashMap<String, Traces>>, name: &str) -> io::Result<()> {
    lock(traces).remove(name);
    folder.remove(name)
}

/// Makes namespaces, one after the other.
struct Maker {
    folder: Folder,
    subnet: Subnet,
    bridge: Index,
    mtu: Option<u32>,
    links: Links,
    home: Home,
    /// The address that was given last.
    last: Option<Ipv4Addr>,
    ready: Arc<Mutex<VecDeque<Sandbox>>>,
    traces: Arc<Mutex<HashMap<String, Traces>>>,
    wanted: usize,
}

impl Maker {
    fn run(mut self, inbox: &mpsc::Receiver<Work>) {
        loop {
            let ready = lock(&self.ready).len();
            let patience = match ready.cmp(&self.wanted) {
                Ordering::Less if ready < FEW => Some(Duration::ZERO),
                Ordering::Less => Some(QUIET),
                Ordering::Equal => None,
                Ordering::Greater => Some(IDLE),
            };
            let work = match patience {
                Some(patience) => inbox.recv_timeout(patience),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match work {
                Ok(Work::Counted) => {}
                Ok(Work::Make(tell)) => {
                    if let Err(Ok(unwanted)) = tell.send(self.make()) {
                        lock(&self.ready).push_back(unwanted);
                    }
                }
                Err(RecvTimeoutError::Timeout) if ready > self.wanted => self.remove_surplus(),
                Err(RecvTimeoutError::Timeout) => self.make_ahead(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn make_ahead(&mut self) {
        match self.make() {
            Ok(sandbox) => lock(&self.ready).push_back(sandbox),
            Err(error) => {
                // Whoever needs one is told; until somebody does there is no hurry.
                tracing::debug!(error = %chain(&error), "failed to make a network namespace ahead");
                self.wanted = 0;
            }
        }
    }

    fn remove_surplus(&self) {
        let surplus: Vec<Sandbox> = {
            let mut ready = lock(&self.ready);
            let wanted = self.wanted.min(ready.len());
            ready.split_off(wanted).into()
        };
        for sandbox in surplus {
            if let Err(error) = discard(&self.folder, &self.traces, &sandbox.name) {
                tracing::warn!(name = sandbox.name, %error, "failed to remove a network namespace that waits in vain");
            }
        }
    }

    fn make(&mut self) -> Result<Sandbox, Error> {
        let address = loop {
            let taken = |address: Ipv4Addr| self.folder.is_claimed(&address.to_string());
            let next = self.subnet.next(self.last, taken).ok_or(Error::Full(self.subnet))?;
            self.last = Some(next);
            let claimed = self.folder.claim(&next.to_string());
            if claimed.map_err(Error::failed(format!("claim the address {next}")))? {
                break next;
            }
        };
        let name = address.to_string();
        let made = self.folder.make(&name, &self.home, |namespace| {
            let here = cable_of(address);
            let cable = Cable {
                here: &here,
                bridge: self.bridge,
                there: INTERFACE,
                hardware: hardware(address, 0x58),
                namespace: std::os::fd::AsFd::as_fd(namespace),
                mtu: self.mtu,
            };
            match self.links.add_cable(&cable) {
                // That of an earlier pod with this address, which the kernel has not come to remove.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if let Some(old) = self.links.find(&here)? {
                        self.links.delete(old)?;
                    }
                    self.links.add_cable(&cable)?;
                }
                done => done?,
            }
            let inside = Links::here()?;
            let index = inside.find(INTERFACE)?.ok_or(io::ErrorKind::NotFound)?;
            without_ipv6(INTERFACE).map_err(io::Error::other)?;
            inside.settle(index, address, self.subnet)?;
            let end = self.links.find(&here)?.ok_or(io::ErrorKind::NotFound)?;
            self.links.wait_until_up(end)?;
            self.links.wait_until_up(self.bridge)?; // it is down while nobody is on it
            // All ports are the pod's own, so none needs privilege, as container runtimes have it. And where a packet goes in
            // by the bridge and out by it, as one by a host port does, the machine would tell the pod of a shorter way, on which
            // the answer were lost.
            let settings = [
                ("ip_unprivileged_port_start", "0"),
                ("conf/all/accept_redirects", "0"),
                ("conf/eth0/accept_redirects", "0"),
            ];
            settings.iter().try_for_each(|(name, value)| fs::write(format!("/proc/sys/net/ipv4/{name}"), value))?;
            Traces::here()
        });
        let traces = made.map_err(|source| {
            let _ = self.folder.remove(&name);
            Error::Failed { attempt: format!("make a network namespace with the address {name}"), source }
        })?;
        lock(&self.traces).insert(name.clone(), traces);
        Ok(Sandbox { path: self.folder.path(&name), name, addresses: vec![address.into()] })
    }
}

/// A hardware address that follows from the network address: who has the latter in mind is right about the former as well,
/// even if it was another pod's before.
fn hardware(address: Ipv4Addr, kind: u8) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, kind, a, b, c, d]
}

/// The bridge of a subnet, and the table of its packet filter.
pub(crate) fn name_of(subnet: Subnet) -> String {
    format!("stint-{:08x}", u32::from(subnet.base()))
}

/// The end on the bridge of the cable to the pod with this address.
fn cable_of(address: Ipv4Addr) -> String {
    format!("st-{:08x}", u32::from(address))
}

/// The longest packet that gets out: that of the way to everywhere.
fn mtu(links: &Links) -> Option<u32> {
    let routes = links.routes().ok()?;
    let out = routes.iter().find(|route| route.to.bits() == 0)?.by?;
    links.mtu(out).ok().flatten().filter(|&mtu| mtu != 1500)
}

/// Makes the bridge of a subnet that neither the machine nor these routes use yet: of that one, or of the first of the usual range.
fn choose(links: &Links, others: &[Route], wanted: Option<Subnet>) -> Result<(Subnet, Index), Error> {
    let range: Subnet = RANGE.parse().expect("the range is one");
    let mut routes = links.routes().map_err(Error::failed("read this machine's routes"))?;
    routes.extend_from_slice(others);
    // Halves of everything, as tunnels have them, are no better than the default route.
    let clash = |subnet: Subnet| routes.iter().find(|route| route.to.bits() > 1 && route.to.overlaps(subnet));
    let make = |subnet: Subnet| {
        let name = name_of(subnet);
        match links.add_bridge(&name, hardware(subnet.gateway(), 0x59), mtu(links)) {
            Ok(()) => find_bridge(links, subnet).map(Some),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(source) => Err(Error::Failed { attempt: format!("make the bridge {name}"), source }),
        }
    };
    if let Some(subnet) = wanted {
        if let Some(route) = clash(subnet) {
            return Err(Error::Clash { wanted: subnet, route: route.to });
        }
        let bridge = make(subnet)?.ok_or(Error::Clash { wanted: subnet, route: subnet })?;
        return Ok((subnet, bridge));
    }
    for subnet in range.parts(BLOCK).filter(|subnet| clash(*subnet).is_none()) {
        if let Some(bridge) = make(subnet)? {
            return Ok((subnet, bridge));
        }
    }
    Err(Error::NoneFree(range))
}

/// The bridge that an earlier daemon made. One that somebody removed is made again, with the pods on it.
fn take_over(links: &Links, subnet: Subnet, found: &[String]) -> Result<Index, Error> {
    let name = name_of(subnet);
    let failed = |attempt: &str| Error::failed(format!("{attempt} {name}"));
    if let Some(bridge) = links.find(&name).map_err(failed("look for the bridge"))? {
        return Ok(bridge);
    }
    let (_, bridge) = choose(links, &[], Some(subnet))?;
    for address in found.iter().filter_map(|name| name.parse::<Ipv4Addr>().ok()) {
        let cable = cable_of(address);
        if let Some(cable) = links.find(&cable).map_err(failed("look for the cables of"))? {
            links.attach(cable, bridge).map_err(failed("put cables on"))?;
        }
    }
    Ok(bridge)
}

fn find_bridge(links: &Links, subnet: Subnet) -> Result<Index, Error> {
    let found = links.find(&name_of(subnet));
    let found = found.and_then(|found| found.ok_or_else(|| io::ErrorKind::NotFound.into()));
    found.map_err(Error::failed(format!("find the bridge {}", name_of(subnet))))
}

fn remove_bridge(links: &Links, subnet: Subnet) -> Result<(), Error> {
    let name = name_of(subnet);
    let gone = links.find(&name).and_then(|found| found.map_or(Ok(()), |bridge| links.delete(bridge)));
    gone.map_err(Error::failed(format!("remove the bridge {name}")))?;
    let filter = Filter::here(&name).and_then(|filter| filter.remove());
    filter.map_err(Error::failed(format!("remove the packet filter {name}")))
}

/// A pod that may make packets of its own could make itself the router of whoever listens to it by IPv6.
fn without_ipv6(interface: &str) -> Result<(), Error> {
    let name = format!("ipv6/conf/{interface}/disable_ipv6");
    if Path::new("/proc/sys/net").join(&name).exists() { set(&name, "1") } else { Ok(()) }
}

/// Sets a sysctl of networks, unless it is set so.
fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{name}");
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(Error::failed(format!("set {path} to {value}")))
}

fn address_of(name: &str) -> Result<Ipv4Addr, Error> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    name.parse().map_err(invalid).map_err(Error::failed(format!("understand the address {name:?}")))
}

/// An error and what caused it.
fn chain(error: &Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
