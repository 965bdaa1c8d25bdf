//! Pods' networks on the running kernel. Each test has a network namespace of its own in the place of the machine's, so that it
//! touches nothing else; it needs root, and says so and passes without.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::filter::{HostPort, Protocol};
use crate::links::{Cable, Links};
use crate::network::{Config, Network, Sandbox};
use crate::router::Router;
use crate::{Error, Subnet};

/// Runs a test on a machine of its own: a thread in a new network namespace.
fn on_a_machine(test: impl FnOnce(&Path) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: networks need root");
        return;
    }
    let machine = std::thread::spawn(move || {
        stint_runtime::namespace::enter_new_network().unwrap();
        let data = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        test(data.path());
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        until("no mount is left", || !mounts().contains(data.path().to_str().unwrap()));
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

fn config(folder: &Path, ready: usize) -> Config {
    Config { folder: folder.join("net"), subnet: None, ready }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    // Its threads are started by this one, and so are on this machine.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Does something in another namespace.
fn within<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(namespace).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

/// A server on a port of a namespace, which tells each client the client's address.
fn serve(namespace: &Path, port: u16) {
    let (ready, is_ready) = mpsc::channel();
    drop(within(namespace, move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        while let Ok((mut stream, from)) = listener.accept() {
            let mut word = [0; 4];
            if stream.read_exact(&mut word).is_err() || &word == b"stop" {
                return;
            }
            let _ = write!(stream, "{}", from.ip());
        }
    }));
    is_ready.recv().unwrap();
}

/// How long a test waits for what has to happen: a machine may be busy with much else.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long it waits for what must not happen.
const SHORT: Duration = Duration::from_secs(3);

/// What such a server says, asked from here.
fn ask(address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    say(address.into(), port, b"who?", PATIENCE)
}

/// Ends such a server: while it runs, its namespace is not gone.
fn stop(namespace: &Path, port: u16) {
    within(namespace, move || say(Ipv4Addr::LOCALHOST.into(), port, b"stop", PATIENCE)).join().unwrap().unwrap();
}

fn say(address: IpAddr, port: u16, word: &[u8], patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), patience)?;
    stream.write_all(word)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_from(namespace: &Path, address: IpAddr, port: u16) -> io::Result<String> {
    within(namespace, move || ask(address, port)).join().unwrap()
}

/// Somebody else's machine, joined by a cable to this one: `198.51.100.2`, while this one is `198.51.100.1`.
struct Outside(std::path::PathBuf);

impl Outside {
    const HERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const THERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    fn new(data: &Path) -> Outside {
        let folder = crate::sandbox::Folder::open(&data.join("outside")).unwrap();
        let home = crate::sandbox::Home::here().unwrap();
        let links = Links::here().unwrap();
        let subnet: Subnet = "198.51.100.0/24".parse().unwrap();
        links.add_bridge("out", [2, 0, 0, 0, 0, 1], None).unwrap();
        let bridge = links.find("out").unwrap().unwrap();
        links.add_address(bridge, Outside::HERE, subnet).unwrap();
        assert!(folder.claim("machine").unwrap());
        folder
            .make("machine", &home, |namespace| {
                let cable = Cable {
                    here: "out-cable",
                    bridge,
                    there: "eth0",
                    hardware: [2, 0, 0, 0, 0, 2],
                    namespace: namespace.as_fd(),
                    mtu: None,
                };
                links.add_cable(&cable)?;
                let inside = Links::here()?;
                inside.settle(inside.find("eth0")?.unwrap(), Outside::THERE, subnet)
            })
            .unwrap();
        Outside(folder.path("machine"))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        crate::sandbox::Folder::at(self.0.parent().unwrap()).remove("machine").unwrap();
    }
}

fn address(sandbox: &Sandbox) -> IpAddr {
    sandbox.addresses[0]
}

/// The interfaces of this machine that are ours.
fn interfaces() -> Vec<String> {
    let names = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = names.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.filter(|name| name.starts_with("st")).collect()
}

/// The kernel removes a namespace, and its cables, some time after it was let go of.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited too long until {what}: {:?}", interfaces());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn pods_have_the_same_port_and_reach_each_other() {
    on_a_machine(|data| {
        let network = Network::open(&config(data, 2)).unwrap();
        let (a, b) = (wait(network.take(&[])).unwrap(), wait(network.take(&[])).unwrap());
        assert_ne!(address(&a), address(&b));
        serve(&a.path, 80);
        serve(&b.path, 80);
        let gateway = network.gateway().unwrap().to_string();
        assert_eq!(ask(address(&a), 80).unwrap(), gateway, "the machine reaches a pod");
        assert_eq!(ask(address(&b), 80).unwrap(), gateway);
        assert_eq!(ask_from(&a.path, address(&b), 80).unwrap(), address(&a).to_string(), "a pod reaches another");
        assert_eq!(ask_from(&a.path, Ipv4Addr::LOCALHOST.into(), 80).unwrap(), "127.0.0.1", "and itself");
        for pod in [&a, &b] {
            stop(&pod.path, 80);
            wait(network.leave(pod, &[])).unwrap();
        }
        network.close().unwrap();
    });
}

#[test]
fn pods_reach_the_world_as_the_machine_and_the_world_does_not_reach_them() {
    on_a_machine(|data| {
        let outside = Outside::new(data);
        let network = Network::open(&config(data, 0)).unwrap();
        let pod = wait(network.take(&[])).unwrap();
        serve(&outside.0, 80);
        assert_eq!(ask_from(&pod.path, Outside::THERE.into(), 80).unwrap(), Outside::HERE.to_string());
        serve(&pod.path, 80);
        let pods = address(&pod);
        let refused = within(&outside.0, move || say(pods, 80, b"who?", SHORT)).join().unwrap().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut, "{refused}");
        stop(&pod.path, 80);
        stop(&outside.0, 80);
        wait(network.leave(&pod, &[])).unwrap();
        network.close().unwrap();
    });
}

#[test]
fn a_host_port_leads_to_its_pod_from_everywhere() {
    on_a_machine(|data| {
        let outside = Outside::new(data);
        let network = Network::open(&config(data, 0)).unwrap();
        let tcp = HostPort { protocol: Protocol::Tcp, address: None, host: 8080, pod: 80 };
        let ports = [tcp, HostPort { address: Some(Outside::HERE), host: 8081, ..tcp }];
        let pod = wait(network.take(&ports)).unwrap();
        let other = wait(network.take(&[])).unwrap();
        serve(&pod.path, 80);
        let here = Outside::HERE.into();
        assert_eq!(ask_from(&outside.0, here, 8080).unwrap(), Outside::THERE.to_string(), "as whoever asks");
        assert_eq!(ask_from(&outside.0, here, 8081).unwrap(), Outside::THERE.to_string());
        let gateway = network.gateway().unwrap();
        assert!(ask(Ipv4Addr::LOCALHOST, 8080).is_ok(), "from the machine's loopback");
        assert!(ask(gateway, 8080).is_ok(), "at each of the machine's addresses");
        assert_eq!(ask(gateway, 8081).unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "but not at others");
        assert!(ask_from(&other.path, here, 8080).is_ok(), "from another pod");
        assert!(ask_from(&pod.path, here, 8080).is_ok(), "from the pod itself");
        stop(&pod.path, 80);
        wait(network.leave(&pod, &ports)).unwrap();
        assert!(say(Ipv4Addr::LOCALHOST.into(), 8080, b"who?", SHORT).is_err(), "it is closed with the pod");
        wait(network.leave(&pod, &ports)).unwrap();
        wait(network.leave(&other, &[])).unwrap();
        network.close().unwrap();
    });
}

#[test]
fn a_pod_does_not_reach_the_loopback_of_the_machine() {
    on_a_machine(|data| {
        let network = Network::open(&config(data, 0)).unwrap();
        let pod = wait(network.take(&[])).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8888)).unwrap();
        let gateway = network.gateway().unwrap();
        // A pod with the right to do so sends packets for the machine's loopback out, instead of keeping them.
        let tried = within(&pod.path, move || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            let links = Links::here().unwrap();
            let index = links.find("lo").unwrap().unwrap();
            links.set_down(index).unwrap();
            let _ = gateway;
            say(Ipv4Addr::LOCALHOST.into(), 8888, b"who?", SHORT)
        });
        assert!(tried.join().unwrap().is_err());
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        wait(network.leave(&pod, &[])).unwrap();
        network.close().unwrap();
    });
}

#[test]
fn a_daemon_that_is_killed_leaves_pods_that_the_next_one_takes_over() {
    on_a_machine(|data| {
        let ports = [HostPort { protocol: Protocol::Tcp, address: None, host: 8080, pod: 80 }];
        let (kept, unclaimed, subnet) = {
            let network = Network::open(&config(data, 3)).unwrap();
            let (kept, unclaimed) = (wait(network.take(&ports)).unwrap(), wait(network.take(&[])).unwrap());
            serve(&kept.path, 80);
            (kept, unclaimed, network.subnet())
        }; // let go of without a word
        let network = Network::open(&config(data, 0)).unwrap();
        assert_eq!(network.subnet(), subnet);
        let gone = Sandbox { name: "10.85.0.99".into(), ..unclaimed.clone() };
        let lost = network.keep(&[(kept.clone(), ports.to_vec()), (gone.clone(), vec![])]);
        assert_eq!(lost, [gone]);
        assert!(ask(address(&kept), 80).is_ok() && ask(Ipv4Addr::LOCALHOST, 8080).is_ok(), "it goes on");
        assert!(!unclaimed.path.exists(), "what no pod has is gone");
        let new = wait(network.take(&[])).unwrap();
        assert_ne!(address(&new), address(&kept));
        network.close().unwrap();
        assert_eq!(
            ask_from(&new.path, address(&kept), 80).unwrap(),
            address(&new).to_string(),
            "pods outlive the daemon"
        );

        let network = Network::open(&config(data, 0)).unwrap();
        network.keep(&[(kept.clone(), ports.to_vec())]);
        stop(&kept.path, 80);
        wait(network.leave(&kept, &ports)).unwrap();
        network.close().unwrap();
        until("nothing is left", || interfaces().is_empty());
    });
}

#[test]
fn nothing_is_left_after_fifty_pods() {
    on_a_machine(|data| {
        let network = Network::open(&config(data, 4)).unwrap();
        let mut given = std::collections::HashSet::new();
        for _ in 0..50 {
            let pod = wait(network.take(&[])).unwrap();
            assert!(given.insert(address(&pod)), "{pod:?} was given before");
            wait(network.leave(&pod, &[])).unwrap();
        }
        network.close().unwrap();
        assert!(!data.join("net").exists(), "no record");
        until("no interface is left", || interfaces().is_empty());
        let name = crate::network::name_of(network.subnet());
        let filter = crate::filter::Filter::here(&name).unwrap();
        assert!(!filter.exists().unwrap(), "no rule");
    });
}

#[test]
fn a_namespace_without_a_trace_of_its_pod_is_the_next_pods() {
    on_a_machine(|data| {
        let network = Network::open(&config(data, 1)).unwrap();
        until("one is ready", || network.ready() == 1);
        let take = || wait(network.take(&[])).unwrap();
        let untouched = take();
        until("the kernel has forgotten who made it", || network.is_unused(&untouched));
        until("another is ready", || network.ready() == 1);
        let other = take();
        wait(network.hand_on(untouched.clone())).unwrap();
        assert_eq!(take(), untouched);

        // As somebody does to whom the pod has passed it on.
        let socket = within(&other.path, || TcpListener::bind("127.0.0.1:0").unwrap()).join().unwrap();
        assert!(!network.is_unused(&other), "a socket");
        drop(socket);
        until("the socket is gone", || network.is_unused(&other));
        let to_itself = || UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", "127.0.0.1:9");
        within(&other.path, to_itself).join().unwrap().unwrap();
        assert!(!network.is_unused(&other), "a packet to itself");
        let gateway = network.gateway().unwrap();
        let to_others = move || UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (gateway, 9));
        within(&untouched.path, to_others).join().unwrap().unwrap();
        until("the packet is out", || !network.is_unused(&untouched));

        wait(network.leave(&untouched, &[])).unwrap();
        wait(network.leave(&other, &[])).unwrap();
        assert!(!network.is_unused(&other), "it is gone");

        // After many pods more are ready than are made ahead, and those that nobody takes go.
        let many: Vec<Sandbox> = (0..5).map(|_| take()).collect();
        for pod in &many {
            until("the kernel has forgotten who made it", || network.is_unused(pod));
        }
        for pod in &many[..4] {
            wait(network.hand_on(pod.clone())).unwrap();
        }
        until("one is enough", || network.ready() == 1);
        until("the others are gone", || many[..4].iter().filter(|pod| pod.path.exists()).count() <= 1);
        wait(network.leave(&many[4], &[])).unwrap();
        network.close().unwrap();
        until("no interface is left", || interfaces().is_empty());
    });
}

#[test]
fn addresses_that_the_machine_uses_are_refused_and_others_chosen() {
    on_a_machine(|data| {
        let links = Links::here().unwrap();
        links.add_bridge("lan", [2, 0, 0, 0, 0, 9], None).unwrap();
        let lan = links.find("lan").unwrap().unwrap();
        links.add_address(lan, Ipv4Addr::new(10, 85, 0, 9), "10.85.0.0/23".parse().unwrap()).unwrap();
        let asked = Config { subnet: Some("10.85.1.0/24".parse().unwrap()), ..config(data, 0) };
        let refused = Network::open(&asked).unwrap_err();
        assert!(matches!(refused, Error::Clash { .. }), "{refused}");
        assert_eq!(
            refused.to_string(),
            "the addresses 10.85.1.0/24 for pods overlap with this machine's route to 10.85.0.0/23: choose others"
        );
        let (first, second) = (data.join("a"), data.join("b"));
        let first = Network::open(&config(&first, 0)).unwrap();
        let second = Network::open(&config(&second, 0)).unwrap();
        assert_eq!(first.subnet().to_string(), "10.85.4.0/22");
        assert_eq!(second.subnet().to_string(), "10.85.8.0/22", "two daemons do not take the same");
        let tiny = Config { subnet: Some("10.99.0.0/30".parse().unwrap()), ..config(data, 0) };
        let tiny = Network::open(&tiny).unwrap();
        let pod = wait(tiny.take(&[])).unwrap();
        assert!(matches!(wait(tiny.take(&[])), Err(Error::Full(_))));
        wait(tiny.leave(&pod, &[])).unwrap();
        let pod = wait(tiny.take(&[])).unwrap();
        wait(tiny.leave(&pod, &[])).unwrap();
        for network in [first, second, tiny] {
            network.close().unwrap();
        }
    });
}

#[test]
fn behind_a_router_pods_are_reached_by_sockets_made_there_and_by_host_ports() {
    on_a_machine(|data| {
        let router = || Router::make(data.join("net/.router"), data.join("netns/router")).unwrap();
        let network = Network::open_behind(&router(), &config(data, 1)).unwrap();
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let ports = [tcp, udp].map(|protocol| HostPort { protocol, address: None, host: 8080, pod: 80 });
        let pod = wait(network.take(&ports)).unwrap();
        assert!(interfaces().is_empty(), "the machine has nothing of it");
        let gateway = network.gateway().unwrap();
        serve(&pod.path, 80);
        let to = address(&pod);
        assert!(ask(to, 80).is_err());
        assert_eq!(network.place().now(move || ask(to, 80)).unwrap(), gateway.to_string());
        let ran = wait(network.place().run(async move { tokio::net::TcpStream::connect((to, 80)).await }));
        ran.unwrap().unwrap().into_std().unwrap().write_all(b"who?").unwrap();
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 8080).unwrap(), gateway.to_string(), "by its host port");
        let other = wait(network.take(&[])).unwrap();
        assert!(ask_from(&other.path, gateway.into(), 8080).is_ok(), "of a pod by the node's address");

        echo(&pod.path, 80);
        let client = client();
        client.connect((Ipv4Addr::LOCALHOST, 8080)).unwrap();
        for word in ["one", "two"] {
            assert_eq!(exchange(&client, word), word);
        }

        let refused = wait(network.take(&ports)).unwrap_err();
        let source = std::error::Error::source(&refused).unwrap().to_string();
        assert!(source.contains("can't listen at 0.0.0.0:8080 (TCP)"), "{refused}: {source}");
        let sctp = HostPort { protocol: Protocol::Sctp, ..ports[0] };
        assert!(wait(network.take(&[sctp])).is_err());
        assert!(ask(Ipv4Addr::LOCALHOST, 8080).is_ok(), "whoever has a port keeps it");

        // Its sockets go with a daemon, what is mounted does not.
        network.close().unwrap();
        let network = Network::open_behind(&router(), &config(data, 0)).unwrap();
        assert_eq!(network.keep(&[(pod.clone(), ports.to_vec()), (other.clone(), vec![])]), []);
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 8080).unwrap(), gateway.to_string(), "with the next daemon");
        stop(&pod.path, 80);
        assert_eq!(exchange(&client, "stop"), "stop");
        wait(network.leave(&pod, &ports)).unwrap();
        drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).expect("the port is free again at once"));
        wait(network.leave(&other, &[])).unwrap();
        network.close().unwrap();
        assert!(!data.join("net").exists() && !data.join("netns/router").exists(), "no record");
    });
}

#[test]
fn behind_a_router_pods_take_no_addresses_that_the_machine_uses() {
    on_a_machine(|data| {
        let links = Links::here().unwrap();
        links.add_bridge("lan", [2, 0, 0, 0, 0, 9], None).unwrap();
        let lan = links.find("lan").unwrap().unwrap();
        links.add_address(lan, Ipv4Addr::new(10, 85, 0, 9), "10.85.0.0/23".parse().unwrap()).unwrap();
        let router = Router::make(data.join("net/.router"), data.join("router")).unwrap();
        let network = Network::open_behind(&router, &config(data, 0)).unwrap();
        assert_eq!(network.subnet().to_string(), "10.85.4.0/22");
        network.close().unwrap();
    });
}

/// Sends datagrams back, until one is `stop`.
fn echo(namespace: &Path, port: u16) {
    let (ready, is_ready) = mpsc::channel();
    drop(within(namespace, move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
            if &buffer[..length] == b"stop" {
                return;
            }
        }
    }));
    is_ready.recv().unwrap();
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    socket
}

fn exchange(client: &UdpSocket, word: &str) -> String {
    client.send(word.as_bytes()).unwrap();
    let mut buffer = [0; 64];
    let length = client.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
