//! Interfaces, addresses and routes, by rtnetlink.
//!
//! Invariant: a handle works in the network namespace of the thread that opened it, wherever it is used later.
//! Upstream: rtnetlink(7) and `include/uapi/linux/{rtnetlink,if_link,if_addr}.h`, Linux 6.1.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;

use crate::netlink::{Answer, Attributes, Holds, Message, Socket, flag};
use crate::subnet::Subnet;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

/// `IFLA_*`.
mod link {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const MASTER: u16 = 10;
    pub(super) const INFO: u16 = 18;
    pub(super) const NAMESPACE: u16 = 28;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    /// `VETH_INFO_PEER`.
    pub(super) const PEER: u16 = 1;
    /// `IFLA_BR_MCAST_SNOOPING`.
    pub(super) const SNOOPING: u16 = 23;
}

/// `RTA_*`.
mod route {
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const INTERFACE: u16 = 4;
    pub(super) const GATEWAY: u16 = 5;
    pub(super) const TABLE: u16 = 15;
}

const INET: u8 = 2;
const UP: u32 = 1;
const MAIN: u8 = 254;
const LOCAL: u32 = 255;

/// A number that names an interface within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index(pub(crate) u32);

/// A virtual cable: one end on a bridge, the other in a pod.
pub(crate) struct Cable<'a> {
    /// The name of the end on the bridge.
    pub(crate) here: &'a str,
    pub(crate) bridge: Index,
    /// The name of the end in the pod.
    pub(crate) there: &'a str,
    /// The hardware address of the end in the pod.
    pub(crate) hardware: [u8; 6],
    /// The pod's namespace.
    pub(crate) namespace: BorrowedFd<'a>,
    /// The longest packet in bytes, where it is not the usual one.
    pub(crate) mtu: Option<u32>,
}

/// A route of the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Subnet,
    pub(crate) by: Option<Index>,
}

/// The interfaces of a network namespace.
#[derive(Debug)]
pub(crate) struct Links(Socket);

impl Links {
    /// Those of this thread's namespace.
    pub(crate) fn here() -> io::Result<Links> {
        Socket::route().map(Links)
    }

    /// Makes a bridge and brings it up; one of that name is an error.
    pub(crate) fn add_bridge(&self, name: &str, hardware: [u8; 6], mtu: Option<u32>) -> io::Result<()> {
        // Nobody subscribes to groups here; and without an address of its own a bridge takes that of one of its ports, and
        // another with every pod that goes.
        let data = Attributes::new().with(link::SNOOPING, &[0]);
        let info = Attributes::new().with_text(link::INFO_KIND, "bridge").with_all(link::INFO_DATA, &data);
        let mut message = Message::new(NEW_LINK, flag::ACK | flag::CREATE | flag::EXCLUSIVE, &interface(0, UP, UP))
            .with_text(link::NAME, name)
            .with(link::ADDRESS, &hardware)
            .with_all(link::INFO, &info);
        if let Some(mtu) = mtu {
            message = message.with(link::MTU, &mtu.to_ne_bytes());
        }
        self.0.ask(vec![message]).map(drop)
    }

    /// Makes a cable. Its end here is up; the other can only be brought up from there, see [`Links::settle`].
    pub(crate) fn add_cable(&self, cable: &Cable<'_>) -> io::Result<()> {
        let mut peer = Attributes::after(&interface(0, 0, 0))
            .with_text(link::NAME, cable.there)
            .with(link::ADDRESS, &cable.hardware)
            .with(link::NAMESPACE, &cable.namespace.as_raw_fd().to_ne_bytes());
        let mut message = Message::new(NEW_LINK, flag::ACK | flag::CREATE | flag::EXCLUSIVE, &interface(0, UP, UP))
            .with_text(link::NAME, cable.here)
            .with(link::MASTER, &cable.bridge.0.to_ne_bytes());
        if let Some(mtu) = cable.mtu {
            peer = peer.with(link::MTU, &mtu.to_ne_bytes());
            message = message.with(link::MTU, &mtu.to_ne_bytes());
        }
        let data = Attributes::new().with_all(link::PEER, &peer);
        let info = Attributes::new().with_text(link::INFO_KIND, "veth").with_all(link::INFO_DATA, &data);
        self.0.ask(vec![message.with_all(link::INFO, &info)]).map(drop)
    }

    /// Has a bridge send packets out where they came in, if they are for who is there: a pod asks itself by a host port, and where
    /// bridges look at IP (`bridge-nf-call-iptables`) such a packet does not go through the machine.
    pub(crate) fn reflect(&self, name: &str) -> io::Result<()> {
        // IFLA_BRPORT_MODE; IFLA_INFO_SLAVE_KIND, _DATA
        let data = Attributes::new().with(4, &[1]);
        let info = Attributes::new().with_text(4, "bridge").with_all(5, &data);
        let message = Message::new(NEW_LINK, flag::ACK, &interface(0, 0, 0)).with_text(link::NAME, name);
        self.0.ask(vec![message.with_all(link::INFO, &info)]).map(drop)
    }

    /// Puts an interface on a bridge.
    pub(crate) fn attach(&self, index: Index, bridge: Index) -> io::Result<()> {
        let message =
            Message::new(NEW_LINK, flag::ACK, &interface(index.0, 0, 0)).with(link::MASTER, &bridge.0.to_ne_bytes());
        self.0.ask(vec![message]).map(drop)
    }

    /// The interface of that name.
    pub(crate) fn find(&self, name: &str) -> io::Result<Option<Index>> {
        let found = self.0.ask(vec![Message::new(GET_LINK, 0, &interface(0, 0, 0)).with_text(link::NAME, name)]);
        match found {
            Ok(answers) => Ok(answers.first().and_then(index_of)),
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when an interface passes packets on, or after a second. To come up takes the kernel a moment after it was told to,
    /// in which packets are lost: among them a pod's first question for an address, which it repeats a second later.
    pub(crate) fn wait_until_up(&self, index: Index) -> io::Result<()> {
        const STATE: u16 = 16; // IFLA_OPERSTATE
        const UP: u8 = 6; // IF_OPER_UP
        for _ in 0..1000 {
            // From Linux 6.8 on the question alone makes it come up.
            let answers = self.0.ask(vec![Message::new(GET_LINK, 0, &interface(index.0, 0, 0))])?;
            let is_up = |answer: &Answer| answer.parts(16)?.1.find(|(kind, _)| *kind == STATE).map(|(_, s)| s == [UP]);
            if answers.first().and_then(is_up) == Some(true) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The longest packet that an interface takes, in bytes.
    pub(crate) fn mtu(&self, index: Index) -> io::Result<Option<u32>> {
        let answers = self.0.ask(vec![Message::new(GET_LINK, 0, &interface(index.0, 0, 0))])?;
        Ok(answers.first().and_then(|answer| number(answer.parts(16)?.1.find(|(kind, _)| *kind == link::MTU)?.1)))
    }

    /// Removes an interface, and the other end of a cable with it.
    pub(crate) fn delete(&self, index: Index) -> io::Result<()> {
        self.0.ask(vec![Message::new(DELETE_LINK, flag::ACK, &interface(index.0, 0, 0))]).map(drop)
    }

    /// Takes an interface down.
    #[cfg(test)]
    pub(crate) fn set_down(&self, index: Index) -> io::Result<()> {
        self.0.ask(vec![Message::new(NEW_LINK, flag::ACK, &interface(index.0, 0, UP))]).map(drop)
    }

    /// Gives an interface an address in a subnet; one that has it already is no error.
    pub(crate) fn add_address(&self, index: Index, address: Ipv4Addr, subnet: Subnet) -> io::Result<()> {
        match self.0.ask(vec![address_of(index, address, subnet)]) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map(drop),
        }
    }

    /// Brings the interface of a pod up, and gives it its address and a way to everywhere else.
    pub(crate) fn settle(&self, index: Index, address: Ipv4Addr, subnet: Subnet) -> io::Result<()> {
        let fixed = [INET, 0, 0, 0, MAIN, 3, 0, 1, 0, 0, 0, 0]; // made by hand, universal, unicast
        let default = Message::new(NEW_ROUTE, flag::ACK | flag::CREATE | flag::EXCLUSIVE, &fixed)
            .with(route::GATEWAY, &subnet.gateway().octets())
            .with(route::INTERFACE, &index.0.to_ne_bytes());
        let up = Message::new(NEW_LINK, flag::ACK, &interface(index.0, UP, UP));
        self.0.ask(vec![up, address_of(index, address, subnet), default]).map(drop)
    }

    /// The routes of IPv4, but those to the machine's own addresses.
    pub(crate) fn routes(&self) -> io::Result<Vec<Route>> {
        let mut fixed = [0; 12];
        fixed[0] = INET;
        let answers = self.0.ask(vec![Message::new(GET_ROUTE, flag::DUMP, &fixed)])?;
        Ok(answers.iter().filter_map(route_of).collect())
    }
}

/// `struct ifinfomsg`: which interface, and the flags to set of those to change.
fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..].copy_from_slice(&change.to_ne_bytes());
    fixed
}

fn address_of(index: Index, address: Ipv4Addr, subnet: Subnet) -> Message {
    let mut fixed = [INET, subnet.bits(), 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.0.to_ne_bytes());
    Message::new(NEW_ADDRESS, flag::ACK | flag::CREATE | flag::EXCLUSIVE, &fixed)
        .with(1, &address.octets()) // IFA_ADDRESS
        .with(2, &address.octets()) // IFA_LOCAL
        .with(4, &subnet.broadcast().octets()) // IFA_BROADCAST
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn index_of(answer: &Answer) -> Option<Index> {
    let (fixed, _) = answer.parts(16)?;
    number(&fixed[4..8]).map(Index)
}

fn route_of(answer: &Answer) -> Option<Route> {
    let (fixed, attributes) = answer.parts(12)?;
    let (bits, mut table) = (fixed[1], u32::from(fixed[4]));
    let (mut to, mut by) = (Ipv4Addr::UNSPECIFIED, None);
    for (kind, value) in attributes {
        match kind {
            route::DESTINATION => to = <[u8; 4]>::try_from(value).ok()?.into(),
            route::INTERFACE => by = number(value).map(Index),
            route::TABLE => table = number(value)?,
            _ => {}
        }
    }
    let to = Subnet::new(to, bits)?;
    (fixed[0] == INET && table != LOCAL).then_some(Route { to, by })
}
