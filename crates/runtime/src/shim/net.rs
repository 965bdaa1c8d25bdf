//! The one thing that a new network namespace needs: its loopback interface up.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `ip link set lo up`.
pub(crate) fn loopback_up() -> Result<()> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = Request { name: [0; 16], flags: 0, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    #[allow(clippy::cast_possible_truncation)]
    let up = libc::IFF_UP as i16;
    request.flags = up;
    // SAFETY: request is a struct ifreq (40 bytes) with a name and flags; the kernel reads it only.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    // SAFETY: errno was set by the failed ioctl.
    if result < 0 { Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() })) } else { Ok(()) }
}
