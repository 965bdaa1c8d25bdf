//! What was done in a network namespace, as the kernel counts it from its making.
//!
//! Both files are of the namespace that the thread was in that opened them, and hold it as its mount does.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Large enough for what is read of a namespace with two interfaces.
const LONGEST: usize = 4096;

/// Who looks at a namespace from outside.
#[derive(Debug)]
pub(crate) struct Traces {
    devices: File,
    sockets: File,
}

impl Traces {
    /// Those of this thread's namespace.
    pub(crate) fn here() -> io::Result<Traces> {
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
        Ok(Traces { devices: open("dev")?, sockets: open("sockstat")? })
    }

    /// Whether nothing was sent, to itself or to others, and nobody has a socket that belongs here.
    pub(crate) fn are_none(&self) -> io::Result<bool> {
        Ok(has_no_socket(&read(&self.sockets)?) && sent_nothing(&read(&self.devices)?))
    }
}

fn read(file: &File) -> io::Result<String> {
    let mut text = vec![0; LONGEST];
    let length = file.read_at(&mut text, 0)?;
    text.truncate(length);
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn has_no_socket(sockstat: &str) -> bool {
    sockstat.lines().next() == Some("sockets: used 0")
}

/// Every interface has a line `name: ` with eight numbers of what came and eight of what went, packets second among them.
fn sent_nothing(dev: &str) -> bool {
    let sent = |line: &str| line.split_once(':')?.1.split_whitespace().nth(9)?.parse::<u64>().ok();
    dev.lines().skip(2).all(|line| sent(line) == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    #[test]
    fn what_was_received_is_no_trace_and_what_was_sent_is() {
        let dev = |lo: u32, eth0: u32| {
            format!(
                "{HEAD}    lo:       0       {lo}    0    0    0     0          0         0        0       {lo}    0    0    0     0       0          0\n  \
                 eth0:     42       7    0    0    0     0          0         0        0       {eth0}    0    0    0     0       0          0\n"
            )
        };
        assert_eq!([dev(0, 0), dev(1, 0), dev(0, 1)].map(|text| sent_nothing(&text)), [true, false, false]);
        assert!(!sent_nothing(&format!("{HEAD}  eth0: 1 2 3\n")), "a kernel that writes it otherwise");
    }

    #[test]
    fn a_socket_is_a_trace() {
        let stat = |used: u32| format!("sockets: used {used}\nTCP: inuse 0 orphan 0 tw 0 alloc 1 mem 244\n");
        assert_eq!([stat(0), stat(1), stat(10)].map(|text| has_no_socket(&text)), [true, false, false]);
    }
}
