//! A container's standard input and terminal, which the shim holds so that they outlive the daemon.
//!
//! Who wants to write there connects to a socket in the container's folder, and is sent the descriptor: the writing end of
//! the pipe, or the terminal. The shim itself never writes; what a terminal shows goes to the log like any output.
//!
//! Invariant: an input that is for one only has no writer but the first who asks, so that it ends when that one closes it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};

use super::exec::{hand_over, take_descriptor};
use crate::plan::Input;
use crate::record;

/// The shim's side of the input, before the container's program runs.
#[derive(Default)]
pub(super) enum Ours {
    /// There is none.
    #[default]
    None,
    /// The writing end of a pipe, and for whom.
    Pipe(OwnedFd, Whom),
    /// Where the terminal comes from.
    Terminal(OwnedFd),
}

/// For whom an input is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    Everybody,
    TheFirst,
}

/// Hands over the input to those who ask.
pub(super) struct Door {
    listener: OwnedFd,
    input: OwnedFd,
    whom: Whom,
    is_terminal: bool,
}

/// The container's standard input, the socket that its terminal is to be sent to, and the shim's side.
pub(super) fn streams(input: Input) -> io::Result<(OwnedFd, Option<OwnedFd>, Ours)> {
    let pipe = |whom| {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((read, None, Ours::Pipe(write, whom)))
    };
    let null = || rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    match input {
        Input::Null => Ok((null()?, None, Ours::None)),
        Input::Pipe => pipe(Whom::Everybody),
        Input::PipeOnce => pipe(Whom::TheFirst),
        Input::Terminal => {
            let kind = SocketType::SEQPACKET;
            let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
            Ok((null()?, Some(theirs), Ours::Terminal(ours)))
        }
    }
}

impl Ours {
    /// Opens the door, in the container's folder; comes with the terminal to read from, if there is one.
    pub(super) fn open(self, dir: &OwnedFd) -> io::Result<(Option<Door>, Option<OwnedFd>)> {
        let (input, whom, terminal) = match self {
            Ours::None => return Ok((None, None)),
            Ours::Pipe(input, whom) => (input, whom, None),
            Ours::Terminal(socket) => {
                let master = take_descriptor(&socket)?;
                rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
                (master.try_clone()?, Whom::Everybody, Some(master))
            }
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&listener, &address(dir)?)?;
        rustix::net::listen(&listener, 16)?;
        Ok((Some(Door { listener, input, whom, is_terminal: terminal.is_some() }), terminal))
    }
}

impl Door {
    pub(super) fn listener(&self) -> &OwnedFd {
        &self.listener
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Hands over the input to who has asked. `None` afterwards if nobody else is to have it.
    pub(super) fn answer(self) -> Option<Door> {
        let given = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC);
        let given = given.and_then(|socket| hand_over(&socket, &self.input));
        if given.is_ok() && self.whom == Whom::TheFirst { None } else { Some(self) }
    }
}

/// The door's address. A socket's path must be short, hence by the folder's descriptor.
pub(crate) fn address(dir: &impl AsFd) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{}", dir.as_fd().as_raw_fd(), record::INPUT))
}
