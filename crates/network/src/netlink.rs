//! Netlink messages and the socket that they go through: what links and packet filters have in common.
//!
//! Invariant: a request is answered before [`Socket::ask`] returns, since the kernel works it off while it is being sent; so
//! nothing waits, and every failure is the caller's.
//! Left out: notifications, and reading attributes within attributes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// `NLM_F_*` of requests.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
}

/// An attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `struct nlmsghdr` and `struct nlattr`.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// More than the kernel puts into one answer.
const ANSWER: usize = 64 * 1024;

/// What attributes are added to, one after the other.
pub(crate) trait Holds: Sized {
    /// Where the next one goes.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Adds an attribute.
    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        put(self.bytes(), kind, value);
        self
    }

    /// Adds an attribute that holds a name.
    fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that holds attributes.
    fn with_all(self, kind: u16, attributes: &Attributes) -> Self {
        self.with(kind | NESTED, &attributes.0)
    }
}

/// One message: its header, the fixed part that its kind has, and attributes.
#[derive(Clone, Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A message of a kind, with the fixed part that messages of the kind begin with.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Message(bytes)
    }

    /// Whether the kernel is to say that it is done.
    fn is_acknowledged(&self) -> bool {
        u16::from_ne_bytes([self.0[6], self.0[7]]) & flag::ACK != 0
    }
}

/// Attributes within an attribute.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// None.
    pub(crate) fn new() -> Attributes {
        Attributes::default()
    }

    /// Those that follow a fixed part.
    pub(crate) fn after(fixed: &[u8]) -> Attributes {
        Attributes(fixed.to_vec())
    }
}

impl Holds for Message {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Holds for Attributes {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE + value.len()).expect("our attributes are short");
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What the kernel answered: one object of a dump, or the one that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Answer(Vec<u8>);

impl Answer {
    #[expect(clippy::type_complexity, reason = "it is read once and at once")]
    /// The fixed part, of which at least `length` bytes are wanted, and the attributes behind it.
    pub(crate) fn parts(&self, length: usize) -> Option<(&[u8], impl Iterator<Item = (u16, &[u8])>)> {
        let fixed = self.0.get(..length)?;
        let mut rest = &self.0[length.next_multiple_of(4).min(self.0.len())..];
        let attributes = std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
            let value = rest.get(ATTRIBUTE..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind & !NESTED, value))
        });
        Some((fixed, attributes))
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn route() -> io::Result<Socket> {
        Socket::open(None)
    }

    /// For packet filters.
    pub(crate) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Socket(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?))
    }

    /// Sends messages as one, and returns what was answered to all of them; the first failure is the error.
    pub(crate) fn ask(&self, messages: Vec<Message>) -> io::Result<Vec<Answer>> {
        let mut bytes = Vec::new();
        let mut awaited = 0_usize;
        for (number, message) in messages.into_iter().enumerate() {
            awaited += usize::from(message.is_acknowledged());
            let mut message = message.0;
            let length = u32::try_from(message.len()).map_err(io::Error::other)?;
            message[..4].copy_from_slice(&length.to_ne_bytes());
            message[8..12].copy_from_slice(&u32::try_from(number).map_err(io::Error::other)?.to_ne_bytes());
            bytes.extend_from_slice(&message);
        }
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut told = Told { answers: Vec::new(), acknowledged: 0, failure: None };
        let mut buffer = vec![0; ANSWER];
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => told.take(&buffer[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break, // that was all
                Err(error) => return Err(error.into()),
            }
        }
        match told.failure {
            Some(error) => Err(error.into()),
            None if told.acknowledged < awaited => Err(io::ErrorKind::UnexpectedEof.into()),
            None => Ok(told.answers),
        }
    }
}

/// What was read so far.
struct Told {
    answers: Vec<Answer>,
    acknowledged: usize,
    failure: Option<Errno>,
}

impl Told {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(header) = bytes.get(..HEADER) {
            let number = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let length = usize::try_from(number(0)).unwrap_or(usize::MAX);
            let Some(body) = bytes.get(HEADER..length) else { return };
            match u16::from_ne_bytes([header[4], header[5]]) {
                ERROR => {
                    let code = body.get(..4).map_or(0, |code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
                    self.acknowledged += 1;
                    if code != 0 {
                        self.failure.get_or_insert(Errno::from_raw_os_error(-code));
                    }
                }
                DONE => {}
                _ => self.answers.push(Answer(body.to_vec())),
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_as_they_were_written() {
        let nested = Attributes::new().with_text(7, "veth");
        let message = Message::new(16, flag::ACK, &[1, 2, 3, 4]).with(3, &[9]).with_all(18, &nested);
        assert_eq!(message.0.len() % 4, 0);
        let answer = Answer(message.0[HEADER..].to_vec());
        let (fixed, attributes) = answer.parts(4).unwrap();
        assert_eq!(fixed, [1, 2, 3, 4]);
        let all: Vec<(u16, Vec<u8>)> = attributes.map(|(kind, value)| (kind, value.to_vec())).collect();
        assert_eq!(all, [(3, vec![9]), (18, nested.0)]);
    }

    #[test]
    fn an_answer_that_is_cut_short_ends_the_reading() {
        let answer = Answer(vec![0, 0, 0, 0, 200, 0, 1, 0, 5]);
        assert_eq!(answer.parts(4).unwrap().1.count(), 0);
        assert!(answer.parts(12).is_none());
        let mut told = Told { answers: Vec::new(), acknowledged: 0, failure: None };
        told.take(&[255; 24]);
        assert!(told.answers.is_empty());
    }

    #[test]
    fn what_the_kernel_refuses_is_its_error() {
        let socket = Socket::route().unwrap();
        let unknown = Message::new(18, flag::ACK, &[0; 16]).with_text(3, "stint-none");
        let error = socket.ask(vec![unknown]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()), "{error}");
    }
}
