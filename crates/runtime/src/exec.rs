//! Commands in running containers: what a caller hands over, and what it gets to hold on to.
//!
//! Invariant: whoever holds an [`ExecHandle`]'s `exit` keeps the command alive; when it is dropped (or this process dies)
//! before the command has ended, the command and what it started in its session are killed. Nothing of a command
//! outlives its container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::pipe;

use crate::{BoxFuture, Error, sys};

/// A command to run in a container. Everything else is as the container's own process has it: user, groups,
/// capabilities, seccomp filter, limits, cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessSpec {
    /// The program and its arguments; at least one.
    pub args: Vec<String>,
    /// `NAME=value`, in addition to the container's environment or in place of its values.
    pub env: Vec<String>,
    /// The working directory; the container's by default.
    pub cwd: Option<PathBuf>,
    /// What its standard streams are.
    pub stdio: Stdio,
}

/// What a command's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// A terminal of the container, for all three. `TERM` is set to `xterm` unless the environment has it.
    Terminal,
    /// Pipes for those that are asked for, `/dev/null` for the others.
    Pipes {
        /// Somebody will write to its input.
        stdin: bool,
        /// Somebody will read its output.
        stdout: bool,
        /// Somebody will read its errors.
        stderr: bool,
    },
}

impl Default for Stdio {
    /// No streams at all.
    fn default() -> Self {
        Self::Pipes { stdin: false, stdout: false, stderr: false }
    }
}

/// Where a command's input goes. Shutting it down, or dropping it, is the end of the input; a terminal's goes on.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Where a command's output comes from. It ends when nobody can write to it any more.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A command that runs.
pub struct ExecHandle {
    /// Its process id, as the host sees it.
    pub pid: i32,
    /// Its input, if it was asked for.
    pub stdin: Option<Input>,
    /// Its output, if it was asked for; with a terminal, everything.
    pub stdout: Option<Output>,
    /// Its errors, if they were asked for.
    pub stderr: Option<Output>,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// Resolves to how it ended. Dropping it before kills the command.
    pub exit: BoxFuture<'static, Result<ExecExit, Error>>,
}

/// The way to a container's standard input.
pub struct Joined {
    /// Where its input goes.
    pub stdin: Input,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecExit {
    /// 0..=255; 128 + n when signal n ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// The daemon's end of a terminal: what is written is typed, what is read is shown.
#[derive(Debug, Clone)]
pub struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
}

impl Terminal {
    pub(crate) fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
        Ok(Self { master: Arc::new(sys::watch(master, Interest::READABLE | Interest::WRITABLE)?) })
    }

    /// Tells the terminal how large it is, in characters. The foreground processes get SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&*self.master, size).map_err(Into::into)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.master.poll_read_ready(cx))?;
            let read = ready.try_io(|fd| match rustix::io::read(fd.get_ref(), buf.initialize_unfilled()) {
                // Nobody has the other end open any more: that is the end.
                Err(Errno::IO) => Ok(0),
                other => other.map_err(Into::into),
            });
            match read {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.master.poll_write_ready(cx))?;
            match ready.try_io(|fd| rustix::io::write(fd.get_ref(), data).map_err(Into::into)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A pipe that is closed by shutting it down.
#[derive(Debug)]
struct ClosingPipe(Option<pipe::Sender>);

impl AsyncWrite for ClosingPipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// A container's input by the descriptor that its shim handed over: its terminal, or the writing end of its pipe.
pub(crate) fn joined(fd: OwnedFd) -> io::Result<Joined> {
    if rustix::termios::isatty(&fd) {
        let terminal = Terminal::new(fd)?;
        return Ok(Joined { stdin: Box::new(terminal.clone()), terminal: Some(terminal) });
    }
    let stdin = ClosingPipe(Some(pipe::Sender::from_owned_fd(fd)?));
    Ok(Joined { stdin: Box::new(stdin), terminal: None })
}

/// The daemon's ends of a command's pipes.
#[derive(Default)]
pub(crate) struct Ours {
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
}

/// The command's ends of its streams and the daemon's.
pub(crate) fn streams(stdio: Stdio) -> io::Result<([OwnedFd; 3], Ours)> {
    let null = || rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let mut theirs = [null()?, null()?, null()?];
    let mut ours = Ours::default();
    if let Stdio::Pipes { stdin, stdout, stderr } = stdio {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        if stdin {
            let (read, write) = pipe()?;
            theirs[0] = read;
            ours.stdin = Some(Box::new(ClosingPipe(Some(pipe::Sender::from_owned_fd(write)?))));
        }
        for (wanted, their, our) in [(stdout, 1, &mut ours.stdout), (stderr, 2, &mut ours.stderr)] {
            if wanted {
                let (read, write) = pipe()?;
                theirs[their] = write;
                *our = Some(Box::new(pipe::Receiver::from_owned_fd(read)?));
            }
        }
    }
    Ok((theirs, ours))
}

/// Whether the process behind a pidfd has ended.
pub(crate) fn has_ended(process: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}
