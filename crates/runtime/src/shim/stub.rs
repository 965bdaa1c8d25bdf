//! The program that a command's process becomes before it becomes the command.
//!
//! Why: until a process executes something, its `/proc/self/exe` is the host's executable, and the kernel follows that name
//! when a program of the container's, or one that is swapped in at the last moment, names it as its interpreter
//! (CVE-2019-5736). So the last thing that is executed on the host's behalf is this: some two hundred bytes in a sealed file
//! in memory, which nobody can change, and which execute the path that they are given.
//!
//! ```text
//! argv: request, path, arguments…        descriptor 3: where an error number goes, closed by a successful exec
//!                                        descriptor 4: the folder with `exec`, where the request goes
//! ```
//!
//! The request is for an AppArmor profile, which a process has from its next exec on and so must ask for here; it is empty if
//! there is none to ask for. A path could lead through a folder that is open, so that it is closed before one is looked at.
//!
//! Invariant: it makes two system calls (fcntl, execve), for a request three more (openat, write, close), and on failure write
//! and exit; it touches nothing else, and gets its environment and streams through unchanged.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};

/// Where the stub says what went wrong.
pub(crate) const STATUS: i32 = 3;

/// Where the stub finds the file for its request.
pub(crate) const ATTRIBUTES: i32 = 4;

/// What is set in the error number of a request.
pub(crate) const OF_PROFILE: i32 = 0x1_0000;

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.stint_stub, \"a\"",
    ".global stint_stub_start",
    ".global stint_stub_end",
    "stint_stub_start:",
    "mov edi, 3",
    "mov esi, 2",
    "mov edx, 1",
    "mov eax, 72", // fcntl(3, F_SETFD, FD_CLOEXEC)
    "syscall",
    "test rax, rax",
    "js 2f",
    "mov r12, [rsp + 8]",
    "cmp byte ptr [r12], 0",
    "je 6f",
    "mov edi, 4",
    "lea rsi, [rip + 8f]",
    "mov edx, 0x80001",
    "mov eax, 257", // openat(4, "exec", O_WRONLY | O_CLOEXEC)
    "syscall",
    "test rax, rax",
    "js 7f",
    "mov edi, eax",
    "mov rsi, r12",
    "xor edx, edx",
    "4:",
    "inc rdx",
    "cmp byte ptr [r12 + rdx], 0",
    "jne 4b",
    "mov eax, 1", // write(exec, argv[0], its length)
    "syscall",
    "test rax, rax",
    "js 7f",
    "mov edi, 4",
    "mov eax, 3", // close(4)
    "syscall",
    "6:",
    "mov rcx, [rsp]",
    "mov rdi, [rsp + 16]",
    "lea rsi, [rsp + 24]",
    "lea rdx, [rsp + rcx * 8 + 16]",
    "mov eax, 59", // execve(argv[1], argv + 2, envp)
    "syscall",
    "2:",
    "neg eax",
    "5:",
    "push rax",
    "mov edi, 3",
    "mov rsi, rsp",
    "mov edx, 4",
    "mov eax, 1", // write(3, &errno, 4)
    "syscall",
    "mov edi, 127",
    "mov eax, 231", // exit_group(127)
    "syscall",
    "ud2",
    "7:",
    "neg eax",
    "or eax, 0x10000", // OF_PROFILE
    "jmp 5b",
    "8:",
    ".asciz \"exec\"",
    "stint_stub_end:",
    ".global stint_holder_start",
    ".global stint_holder_end",
    "stint_holder_start:",
    "mov eax, 34", // pause()
    "syscall",
    "jmp stint_holder_start",
    "stint_holder_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.stint_stub, \"a\"",
    ".balign 4",
    ".global stint_stub_start",
    ".global stint_stub_end",
    "stint_stub_start:",
    "mov x0, #3",
    "mov x1, #2",
    "mov x2, #1",
    "mov x8, #25", // fcntl(3, F_SETFD, FD_CLOEXEC)
    "svc #0",
    "tbnz x0, #63, 2f",
    "ldr x10, [sp, #8]",
    "ldrb w11, [x10]",
    "cbz w11, 6f",
    "mov x0, #4",
    "adr x1, 8f",
    "mov w2, #1",
    "movk w2, #8, lsl #16",
    "mov x3, #0",
    "mov x8, #56", // openat(4, "exec", O_WRONLY | O_CLOEXEC)
    "svc #0",
    "tbnz x0, #63, 7f",
    "mov x1, x10",
    "mov x2, #0",
    "4:",
    "add x2, x2, #1",
    "ldrb w11, [x10, x2]",
    "cbnz w11, 4b",
    "mov x8, #64", // write(exec, argv[0], its length)
    "svc #0",
    "tbnz x0, #63, 7f",
    "mov x0, #4",
    "mov x8, #57", // close(4)
    "svc #0",
    "6:",
    "ldr x9, [sp]",
    "ldr x0, [sp, #16]",
    "add x1, sp, #24",
    "add x2, sp, #16",
    "add x2, x2, x9, lsl #3",
    "mov x8, #221", // execve(argv[1], argv + 2, envp)
    "svc #0",
    "2:",
    "neg w0, w0",
    "5:",
    "str w0, [sp, #-16]!",
    "mov x0, #3",
    "mov x1, sp",
    "mov x2, #4",
    "mov x8, #64", // write(3, &errno, 4)
    "svc #0",
    "mov x0, #127",
    "mov x8, #94", // exit_group(127)
    "svc #0",
    "brk #1",
    "7:",
    "neg w0, w0",
    "orr w0, w0, #0x10000", // OF_PROFILE
    "b 5b",
    "8:",
    ".asciz \"exec\"",
    ".balign 4",
    "stint_stub_end:",
    ".global stint_holder_start",
    ".global stint_holder_end",
    "stint_holder_start:",
    "mov x0, #0",
    "mov x1, #0",
    "mov x2, #0",
    "mov x3, #0",
    "mov x8, #73", // ppoll(0, 0, 0, 0)
    "svc #0",
    "b stint_holder_start",
    "stint_holder_end:",
    ".popsection",
);

unsafe extern "C" {
    static stint_stub_start: u8;
    static stint_stub_end: u8;
    static stint_holder_start: u8;
    static stint_holder_end: u8;
}

/// `e_machine`.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// The stub's instructions.
fn stub() -> &'static [u8] {
    let (start, end) = (&raw const stint_stub_start, &raw const stint_stub_end);
    // SAFETY: both are labels in one read-only section of this program, the second behind the first, and all that lies
    // between them are the bytes that were assembled above.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// The instructions of the program that waits.
fn holder() -> &'static [u8] {
    let (start, end) = (&raw const stint_holder_start, &raw const stint_holder_end);
    // SAFETY: as in `stub`.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// An ELF file with one segment: the headers and the code.
fn elf(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    let size = u64::from(HEADERS) + code.len() as u64;
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64 bits, little-endian
    for half in [2_u16, MACHINE] {
        elf.extend_from_slice(&half.to_le_bytes()); // ET_EXEC
    }
    elf.extend_from_slice(&1_u32.to_le_bytes());
    for word in [BASE + u64::from(HEADERS), 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes()); // entry, program headers, no sections
    }
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1_u32, 5] {
        elf.extend_from_slice(&word.to_le_bytes()); // PT_LOAD, readable and executable
    }
    for word in [0, BASE, BASE, size, size, 0x1_0000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(code);
    elf
}

/// The stub in a file in memory that can't be changed.
pub(crate) fn make() -> Result<OwnedFd> {
    file(c"stint-stub", stub())
}

/// In such a file, a program that waits for ever: the first process of a container that holds its namespaces for others.
/// Who executes it ignores `SIGCHLD`, so that the kernel reaps what is orphaned to it.
pub(crate) fn make_holder() -> Result<OwnedFd> {
    file(c"stint-holder", holder())
}

fn file(name: &CStr, code: &[u8]) -> Result<OwnedFd> {
    /// Without it a kernel may be told to refuse (`vm.memfd_noexec`), and older ones do not know it.
    const EXECUTABLE: MemfdFlags = MemfdFlags::from_bits_retain(0x10);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | EXECUTABLE) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    let elf = elf(code);
    if rustix::io::write(&file, &elf)? != elf.len() {
        return Err(Errno::IO);
    }
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;

    use rustix::fs::OFlags;

    /// The stub's standing-in for a program: its exit code, what it printed, and the error number that it told.
    fn run(args: &[&str]) -> (Option<i32>, String, Vec<u8>) {
        run_asking("", Path::new("/"), args)
    }

    /// The same with a request for a folder.
    fn run_asking(request: &str, folder: &Path, args: &[&str]) -> (Option<i32>, String, Vec<u8>) {
        let above = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 10).unwrap();
        // Out of the way of the numbers that it knows.
        let stub = above(make().unwrap());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = above(rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).unwrap());
        let path = format!("/proc/self/fd/{}", stub.as_raw_fd());
        let (status, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (status, theirs) = (above(status), above(theirs));
        let mut command = Command::new(path);
        command.arg0(request).args(args).env_clear().env("A", "1");
        // SAFETY: dup3 alone, which may be called between fork and exec.
        let output = unsafe {
            command
                .pre_exec(move || {
                    crate::sys::dup2(theirs.as_fd(), STATUS)?;
                    Ok(crate::sys::dup2(folder.as_fd(), ATTRIBUTES)?)
                })
                .output()
        };
        let output = output.unwrap();
        drop(command);
        let mut told = [0; 16];
        let len = rustix::io::read(&status, &mut told).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), told[..len].to_vec())
    }

    #[test]
    fn it_asks_for_a_profile_before_and_keeps_nothing_open_of_that() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("exec");
        std::fs::write(&file, "").unwrap();
        let args = ["/bin/sh", "name", "-c", "ls /proc/$$/fd"];
        let (code, open, told) = run_asking("exec my profile", folder.path(), &args);
        assert_eq!((code, told.as_slice()), (Some(0), &[][..]));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "exec my profile");
        assert!(!open.lines().any(|fd| fd == "3" || fd == "4"), "{open}");
        std::fs::remove_file(&file).unwrap();
        let (code, said, told) = run_asking("exec my profile", folder.path(), &args);
        assert_eq!((code, said.as_str()), (Some(127), ""), "nothing runs without its profile");
        assert_eq!(told, (libc::ENOENT | OF_PROFILE).to_ne_bytes());
    }

    #[test]
    fn it_executes_what_it_is_given_with_everything_else_unchanged() {
        let (code, said, told) =
            run(&["/bin/sh", "name", "-c", "echo $0 $1 $A; test -e /proc/$$/fd/3 && echo open; exit 7", "x", "y"]);
        assert_eq!((code, said.as_str(), told.as_slice()), (Some(7), "x y 1\n", &[][..]));
    }

    #[test]
    fn it_tells_why_it_could_not() {
        let (code, _, told) = run(&["/no/such/program", "x"]);
        assert_eq!((code, told.as_slice()), (Some(127), &libc::ENOENT.to_ne_bytes()[..]));
        let (code, _, told) = run(&["/etc/passwd", "x"]);
        assert_eq!((code, told.as_slice()), (Some(127), &libc::EACCES.to_ne_bytes()[..]));
    }

    #[test]
    fn nobody_can_change_it() {
        let stub = make().unwrap();
        assert_eq!(rustix::io::pwrite(&stub, b"x", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&stub, 0), Err(Errno::PERM));
    }
}
