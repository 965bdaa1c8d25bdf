//! The other way to start a container: a runc-compatible program, `create`, `start` and `delete`.
//!
//! Invariant: init becomes a child of the shim (a subreaper) when `create` ends, so its exit is never lost;
//! `run --detach` would lose it for short-lived programs. The root filesystem is mounted in the shim's own mount namespace.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use super::{failed, mounts, output_pipe, read_to_end, text};
use crate::plan::{Bind, Failure, FailureKind, Root};
use crate::sys::{self, Fork};

/// The program and the container it was asked to make.
pub(crate) struct Program {
    path: CString,
    id: CString,
}

/// A created container, not started yet.
pub(crate) struct Created {
    pub(crate) program: Program,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) output: (OwnedFd, OwnedFd),
}

/// Mounts the root filesystem and has the container created.
pub(crate) fn start(
    id: &str,
    path: &CStr,
    (root, staged): (&Root, &[(Bind, CString)]),
    dir: &CStr,
    uid: u32,
) -> Result<Created, Failure> {
    let fail = |step: &str| {
        let step = step.to_owned();
        move |e: rustix::io::Errno| failed(step, &io::Error::from(e))
    };
    sys::unshare(libc::CLONE_NEWNS).map_err(fail("create a mount namespace"))?;
    mounts::isolate().map_err(fail("isolate its mount namespace"))?;
    let step = format!("mount the root filesystem (layers {:?}) at {}", root.lower, text(&root.mountpoint));
    let mounted = mounts::mount_root(root).map_err(fail(&step))?;
    if matches!(root.upper, crate::plan::Upper::Tmpfs(_)) {
        // The program looks at the mount point, where the tmpfs is.
        mounts::show_at(&mounted, &root.mountpoint).map_err(fail("bind the root filesystem into the bundle"))?;
    }
    for (n, (bind, place)) in staged.iter().enumerate() {
        if n == 0 {
            mounts::make_stage(place).map_err(fail("make a folder for parts of volumes"))?;
        }
        mounts::stage(bind, place).map_err(fail(&bind.to_string()))?;
    }
    let id = CString::new(id).map_err(|e| failed("name the container".into(), &io::Error::other(e)))?;
    let program = Program { path: path.to_owned(), id };
    let output = (output_pipe(), output_pipe());
    let ((out_read, out_write), (err_read, err_write)) = match output {
        (Ok(out), Ok(err)) => (out, err),
        (Err(e), _) | (_, Err(e)) => return Err(failed("make the container's pipes".into(), &e)),
    };
    if uid != 0 {
        for fd in [&out_write, &err_write] {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
    let pid_file = join(dir, "/init.pid");
    let message_file = join(dir, "/program.log");
    let args = [c"--log", &message_file, c"create", c"--bundle", dir, c"--pid-file", &pid_file, &program.id];
    let created = program.call(&args, Some((&out_write, &err_write)));
    let message = read(&message_file).unwrap_or_default();
    for file in [&pid_file, &message_file] {
        if file == &pid_file && matches!(created, Ok(0)) {
            continue;
        }
        let _ = rustix::fs::unlink(&**file);
    }
    match created {
        Ok(0) => {}
        Ok(_) => {
            program.delete();
            return Err(understand(&text(path), "create it", &message));
        }
        Err(e) => return Err(failed(format!("run {}", text(path)), &e)),
    }
    let pid = read(&pid_file).ok().and_then(|t| String::from_utf8_lossy(&t).trim().parse::<i32>().ok());
    let _ = rustix::fs::unlink(&*pid_file);
    let opened = pid.and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH);
    match opened.and_then(|pid| Ok((pid, rustix::process::pidfd_open(pid, PidfdFlags::empty())?))) {
        Ok((pid, pidfd)) => Ok(Created { program, pid: pid.as_raw_pid(), pidfd, output: (out_read, err_read) }),
        Err(e) => {
            program.delete();
            Err(failed(format!("find the process that {} made", text(path)), &e.into()))
        }
    }
}

impl Program {
    /// Has the created container's program executed.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        match self.call(&[c"start", &self.id], None) {
            Ok(0) => Ok(()),
            Ok(code) => Err(failed(
                format!("start it with {} (exit {code})", text(&self.path)),
                &io::Error::from_raw_os_error(libc::EIO),
            )),
            Err(e) => Err(failed(format!("run {}", text(&self.path)), &e)),
        }
    }

    /// Has what is left of the container removed.
    pub(crate) fn delete(&self) {
        let _ = self.call(&[c"delete", c"--force", &self.id], None);
    }

    fn call(&self, args: &[&CStr], output: Option<(&OwnedFd, &OwnedFd)>) -> io::Result<i32> {
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let (stdout, stderr) = output.unwrap_or((&null, &null));
        call(&self.path, args, [&null, stdout, stderr])
    }
}

/// Runs the program to its end; its exit code.
pub(super) fn call(program: &CStr, args: &[&CStr], stdio: [&OwnedFd; 3]) -> io::Result<i32> {
    let argv: Vec<*const c_char> =
        std::iter::once(program.as_ptr()).chain(args.iter().map(|a| a.as_ptr())).chain([std::ptr::null()]).collect();
    let path = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env = [path.as_ptr(), std::ptr::null()];
    match sys::fork(0, None)? {
        Fork::Child => {
            let wired = sys::dup2(stdio[0].as_fd(), 0)
                .and_then(|()| sys::dup2(stdio[1].as_fd(), 1))
                .and_then(|()| sys::dup2(stdio[2].as_fd(), 2))
                .and_then(|()| sys::close_range(3, u32::MAX, true));
            if wired.is_ok() {
                let _ = sys::execve(program, &argv, &env);
            }
            sys::exit(127)
        }
        Fork::Parent(_, pidfd) => {
            let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
            Ok(status.and_then(|s| s.exit_status()).unwrap_or(255))
        }
    }
}

/// Makes one of our errors out of the program's message.
pub(super) fn understand(program: &str, what: &str, message: &[u8]) -> Failure {
    let message = String::from_utf8_lossy(message);
    let message = message.trim();
    let last = message.lines().last().unwrap_or("it said nothing");
    let last = last.split_once("msg=").map_or(last, |(_, m)| m);
    let (kind, errno) = if last.contains("executable file not found")
        || last.contains("no such file or directory") && last.contains("exec")
    {
        (FailureKind::NotFound, libc::ENOENT)
    } else if last.contains("permission denied") && last.contains("exec") {
        (FailureKind::NotExecutable, libc::EACCES)
    } else {
        (FailureKind::Step, libc::EIO)
    };
    Failure { kind, step: format!("{what} with {program}: {last}"), errno }
}

fn join(dir: &CStr, name: &str) -> CString {
    let mut path = dir.to_bytes().to_vec();
    path.extend_from_slice(name.as_bytes());
    CString::new(path).unwrap_or_default()
}

pub(super) fn read(path: &CStr) -> io::Result<Vec<u8>> {
    let fd = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut content = Vec::new();
    read_to_end(&fd, &mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_command_is_told_apart() {
        let runc = b"time=\"x\" level=error msg=\"runc create failed: unable to start container process: exec: \\\"nope\\\": executable file not found in $PATH\"";
        assert_eq!(understand("runc", "create it", runc).kind, FailureKind::NotFound);
        let runc = b"level=error msg=\"exec: \\\"/etc/passwd\\\": permission denied\"";
        assert_eq!(understand("runc", "create it", runc).kind, FailureKind::NotExecutable);
        assert_eq!(understand("runc", "create it", b"").kind, FailureKind::Step);
    }
}
