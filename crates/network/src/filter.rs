//! What the machine does with the packets of pods, as one table of nf_tables.
//!
//! ```text
//!  from a pod ──► raw: not to the host's loopback ──► ports: a host port? ──► to anybody ──► sources: as the machine
//!  to a pod   ──► from its own network, in answer, or by a host port; else dropped
//!  from here  ──► ports: a host port of this machine? ──► to the pod
//! ```
//!
//! Invariants: everything is in one table, which is made and removed as a whole; the packets of others pass through unchanged.
//! Upstream: `include/uapi/linux/netfilter/nf_tables.h`, Linux 6.1; what it does is what the CNI plugins `bridge` and `portmap`
//! do with `ipMasq`.

use std::io;
use std::net::Ipv4Addr;

use crate::links::Index;
use crate::netlink::{Attributes, Holds, Message, Socket, flag};
use crate::subnet::Subnet;

/// A port of the machine that leads to a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// By which protocol.
    pub protocol: Protocol,
    /// At which address of the machine; `None` at each.
    pub address: Option<Ipv4Addr>,
    /// The port of the machine.
    pub host: u16,
    /// The port of the pod.
    pub pod: u16,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in an IP packet.
    fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// As Kubernetes has it, `TCP` for instance.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }

    /// What Kubernetes calls by that name.
    pub fn named(name: &str) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.as_str() == name)
    }
}

/// Message types of nf_tables, its part of netfilter's netlink in the upper half.
mod kind {
    const NF_TABLES: u16 = 10 << 8;
    pub(super) const BEGIN: u16 = 0x10;
    pub(super) const END: u16 = 0x11;
    pub(super) const NEW_TABLE: u16 = NF_TABLES;
    pub(super) const DELETE_TABLE: u16 = NF_TABLES | 2;
    pub(super) const NEW_CHAIN: u16 = NF_TABLES | 3;
    pub(super) const NEW_RULE: u16 = NF_TABLES | 6;
    pub(super) const NEW_SET: u16 = NF_TABLES | 9;
    pub(super) const NEW_ELEMENT: u16 = NF_TABLES | 0xc;
    pub(super) const DELETE_ELEMENT: u16 = NF_TABLES | 0xe;
}

const IPV4: u8 = 2;
/// Where a packet is caught.
const BEFORE_ROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const AFTER_ROUTING: u32 = 4;
/// Registers of four bytes each; the first four are also one of sixteen.
const FIRST: u32 = 8;
const SECOND: u32 = 9;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Host ports at every address of the machine: protocol and port → address and port.
const PORTS: &str = "hostports";
/// Host ports at one address: address, protocol and port → address and port.
const PORTS_AT: &str = "hostports-at";

/// The table of one bridge.
#[derive(Debug)]
pub(crate) struct Filter {
    socket: Socket,
    table: String,
}

impl Filter {
    /// That of this thread's namespace, by name. Nothing is made.
    pub(crate) fn here(table: &str) -> io::Result<Filter> {
        Ok(Filter { socket: Socket::netfilter()?, table: table.to_owned() })
    }

    /// Makes the table anew, with no host ports.
    pub(crate) fn make(&self, bridge: Index, subnet: Subnet) -> io::Result<()> {
        let loopback = Subnet::new(Ipv4Addr::LOCALHOST, 8).expect("an address has 8 bits");
        let from_pods = || from(subnet);
        let mut all = vec![
            self.table(kind::NEW_TABLE, flag::CREATE),
            self.table(kind::DELETE_TABLE, 0),
            self.table(kind::NEW_TABLE, flag::CREATE),
            self.map(PORTS, 1, &[12, 13]),
            self.map(PORTS_AT, 2, &[7, 12, 13]),
            self.chain("raw", "filter", BEFORE_ROUTING, -300),
            self.chain("prerouting", "nat", BEFORE_ROUTING, -100),
            self.chain("output", "nat", OUTPUT, -100),
            self.chain("forward", "filter", FORWARD, 0),
            self.chain("postrouting", "nat", AFTER_ROUTING, 100),
            // The bridge lets packets from the machine's loopback out, for host ports; none may come in that way.
            self.rule("raw", &[came_by(bridge), to(loopback), verdict(DROP)]),
            // Pods reach everybody; who is not on the machine reaches pods by host ports only.
            self.rule("forward", &[came_by(bridge), verdict(ACCEPT)]),
            self.rule("forward", &[goes_by(bridge, UNEQUAL), verdict(ACCEPT)]),
            self.rule("forward", &[connection(STATE, ESTABLISHED | RELATED), verdict(ACCEPT)]),
            self.rule("forward", &[connection(STATUS, DESTINATION_CHANGED), verdict(ACCEPT)]),
            self.rule("forward", &[verdict(DROP)]),
            self.rule("postrouting", &[from_pods(), goes_by(bridge, UNEQUAL), masquerade()]),
            // By a host port of the machine's loopback, or of a pod to one on the same bridge: the answer must come back here.
            self.rule("postrouting", &[goes_by(bridge, EQUAL), from(loopback), masquerade()]),
            self.rule(
                "postrouting",
                &[goes_by(bridge, EQUAL), from_pods(), connection(STATUS, DESTINATION_CHANGED), masquerade()],
            ),
        ];
        for chain in ["prerouting", "output"] {
            all.push(
                self.rule(chain, &[is_for_this_machine(), translate(PORTS_AT, vec![payload(1, 16, 4, FIRST)], SECOND)]),
            );
            all.push(self.rule(chain, &[is_for_this_machine(), translate(PORTS, Vec::new(), FIRST)]));
        }
        self.commit(all)
    }

    /// Removes the table, if it is there.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match self.commit(vec![self.table(kind::DELETE_TABLE, 0)]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Whether the table is there.
    #[cfg(test)]
    pub(crate) fn exists(&self) -> io::Result<bool> {
        let get = Message::new((10 << 8) | 1, 0, &[IPV4, 0, 0, 0]).with_text(1, &self.table);
        match self.socket.ask(vec![get]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|found| !found.is_empty()),
        }
    }

    /// Leads ports of the machine to a pod; those that lead there already are no error.
    pub(crate) fn open(&self, pod: Ipv4Addr, ports: &[HostPort]) -> io::Result<()> {
        self.elements(kind::NEW_ELEMENT, flag::CREATE, pod, ports)
    }

    /// Takes back what [`Filter::open`] did; ports that lead nowhere are no error.
    pub(crate) fn close(&self, pod: Ipv4Addr, ports: &[HostPort]) -> io::Result<()> {
        for port in ports {
            match self.elements(kind::DELETE_ELEMENT, 0, pod, std::slice::from_ref(port)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn elements(&self, kind: u16, flags: u16, pod: Ipv4Addr, ports: &[HostPort]) -> io::Result<()> {
        let element = |port: &HostPort| {
            let mut key = port.address.map_or(Vec::new(), |address| address.octets().to_vec());
            key.extend_from_slice(&[port.protocol.number(), 0, 0, 0]);
            key.extend_from_slice(&padded(port.host));
            let value = [&pod.octets()[..], &padded(port.pod)].concat();
            // NFTA_SET_ELEM_KEY, _DATA
            let one = Attributes::new().with_all(1, &data(&key)).with_all(2, &data(&value));
            let name = if port.address.is_some() { PORTS_AT } else { PORTS };
            message(kind, flags)
                .with_text(1, &self.table) // NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS
                .with_text(2, name)
                .with_all(3, &Attributes::new().with_all(1, &one))
        };
        self.commit(ports.iter().map(element).collect())
    }

    /// Sends messages that take effect together or not at all.
    fn commit(&self, messages: Vec<Message>) -> io::Result<()> {
        let part = [0, 0, 0, 10]; // of no family, and meant for nf_tables
        let mut all = vec![Message::new(kind::BEGIN, 0, &part)];
        all.extend(messages);
        all.push(Message::new(kind::END, 0, &part));
        self.socket.ask(all).map(drop)
    }

    fn table(&self, kind: u16, flags: u16) -> Message {
        message(kind, flags).with_text(1, &self.table)
    }

    fn chain(&self, name: &str, of: &str, hook: u32, priority: i32) -> Message {
        // NFTA_HOOK_HOOKNUM, _PRIORITY; NFTA_CHAIN_TABLE, _NAME, _HOOK, _TYPE
        let hook = Attributes::new().with(1, &hook.to_be_bytes()).with(2, &priority.to_be_bytes());
        message(kind::NEW_CHAIN, flag::CREATE)
            .with_text(1, &self.table)
            .with_text(3, name)
            .with_all(4, &hook)
            .with_text(7, of)
    }

    /// A map from values of these types, four bytes each, to an address and a port.
    fn map(&self, name: &str, id: u32, key: &[u32]) -> Message {
        const MAP: u32 = 8;
        let type_of = |parts: &[u32]| parts.iter().fold(0, |all, part| all << 6 | part).to_be_bytes();
        let length = u32::try_from(key.len() * 4).unwrap_or(0);
        // NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _DATA_TYPE, _DATA_LEN, _ID
        message(kind::NEW_SET, flag::CREATE)
            .with_text(1, &self.table)
            .with_text(2, name)
            .with(3, &MAP.to_be_bytes())
            .with(4, &type_of(key))
            .with(5, &length.to_be_bytes())
            .with(6, &type_of(&[7, 13]))
            .with(7, &8_u32.to_be_bytes())
            .with(10, &id.to_be_bytes())
    }

    fn rule(&self, chain: &str, parts: &[Vec<Expression>]) -> Message {
        let list = parts.iter().flatten().fold(Attributes::new(), |list, Expression(name, data)| {
            // NFTA_LIST_ELEM of NFTA_EXPR_NAME, _DATA
            list.with_all(1, &Attributes::new().with_text(1, name).with_all(2, data))
        });
        // NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS
        message(kind::NEW_RULE, flag::CREATE | 0x800) // appended
            .with_text(1, &self.table)
            .with_text(2, chain)
            .with_all(4, &list)
    }
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags | flag::ACK, &[IPV4, 0, 0, 0])
}

/// One step of a rule, by the kernel's name of it; a comparison that fails ends the rule.
struct Expression(&'static str, Attributes);

fn numbers(name: &'static str, pairs: &[(u16, u32)]) -> Expression {
    let attributes = pairs.iter().fold(Attributes::new(), |all, (kind, value)| all.with(*kind, &value.to_be_bytes()));
    Expression(name, attributes)
}

/// `NFTA_DATA_VALUE`.
fn data(value: &[u8]) -> Attributes {
    Attributes::new().with(1, value)
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Compares the first register.
fn compare(operation: u32, value: &[u8]) -> Expression {
    let attributes = Attributes::new().with(1, &FIRST.to_be_bytes()).with(2, &operation.to_be_bytes());
    Expression("cmp", attributes.with_all(3, &data(value)))
}

/// Keeps some bits of the first register.
fn keep(mask: [u8; 4]) -> Expression {
    let attributes = [1, 2].into_iter().fold(Attributes::new(), |all, kind| all.with(kind, &FIRST.to_be_bytes()));
    let attributes = attributes.with(3, &4_u32.to_be_bytes());
    Expression("bitwise", attributes.with_all(4, &data(&mask)).with_all(5, &data(&[0; 4])))
}

fn meta(key: u32, register: u32) -> Expression {
    numbers("meta", &[(1, register), (2, key)])
}

/// Loads bytes of the packet: of its network header, or of its transport header.
fn payload(header: u32, offset: u32, length: u32, register: u32) -> Expression {
    numbers("payload", &[(1, register), (2, header), (3, offset), (4, length)])
}

fn came_by(Index(interface): Index) -> Vec<Expression> {
    vec![meta(4, FIRST), compare(EQUAL, &interface.to_ne_bytes())]
}

fn goes_by(Index(interface): Index, operation: u32) -> Vec<Expression> {
    vec![meta(5, FIRST), compare(operation, &interface.to_ne_bytes())]
}

fn from(subnet: Subnet) -> Vec<Expression> {
    within(12, subnet)
}

fn to(subnet: Subnet) -> Vec<Expression> {
    within(16, subnet)
}

/// An address in the network header.
fn within(offset: u32, subnet: Subnet) -> Vec<Expression> {
    let (mask, base) = (subnet.mask().octets(), subnet.base().octets());
    vec![payload(1, offset, 4, FIRST), keep(mask), compare(EQUAL, &base)]
}

/// What the machine knows of the packet's connection.
const STATE: u32 = 0;
const STATUS: u32 = 2;
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const DESTINATION_CHANGED: u32 = 32;

/// Any of these bits is set.
fn connection(key: u32, bits: u32) -> Vec<Expression> {
    let load = numbers("ct", &[(1, FIRST), (2, key)]);
    vec![load, keep(bits.to_ne_bytes()), compare(UNEQUAL, &[0; 4])]
}

/// The packet's destination is an address of the machine's.
fn is_for_this_machine() -> Vec<Expression> {
    const DESTINATION: u32 = 2;
    const TYPE_OF_ADDRESS: u32 = 3;
    const LOCAL: u32 = 2;
    let load = numbers("fib", &[(1, FIRST), (2, TYPE_OF_ADDRESS), (3, DESTINATION)]);
    vec![load, compare(EQUAL, &LOCAL.to_ne_bytes())]
}

/// Sends the packet to where the map says, if it says something: about what was loaded, and the protocol and port in the
/// registers from there on.
fn translate(map: &'static str, loaded: Vec<Expression>, then: u32) -> Vec<Expression> {
    const L4_PROTOCOL: u32 = 16;
    let mut steps = loaded;
    steps.extend([meta(L4_PROTOCOL, then), payload(2, 2, 2, then + 1)]);
    let look_up = Attributes::new().with_text(1, map).with(2, &FIRST.to_be_bytes()).with(3, &FIRST.to_be_bytes());
    steps.push(Expression("lookup", look_up));
    // To another destination, of IPv4, from these registers.
    steps.push(numbers("nat", &[(1, 1), (2, u32::from(IPV4)), (3, FIRST), (5, SECOND)]));
    steps
}

fn masquerade() -> Vec<Expression> {
    vec![Expression("masq", Attributes::new())]
}

fn verdict(code: u32) -> Vec<Expression> {
    // NFTA_DATA_VERDICT of NFTA_VERDICT_CODE, into the register of verdicts
    let verdict = Attributes::new().with_all(2, &Attributes::new().with(1, &code.to_be_bytes()));
    let immediate = Attributes::new().with(1, &0_u32.to_be_bytes()).with_all(2, &verdict);
    vec![Expression("immediate", immediate)]
}
