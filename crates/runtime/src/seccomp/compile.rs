//! From a profile to BPF: a binary search over system call numbers, then the rules of that call.
//!
//! Invariant: system calls of another architecture end the process; those newer than every name of an allow list fail
//! with ENOSYS, so that libraries fall back. A rule whose names this table lacks is left out only where that makes the
//! filter stricter. Written by hand because a chain of comparisons, as `seccompiler` makes it, has four times the
//! instructions; the kernel converts and walks them at every start of a container.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::syscalls::SYSCALLS;
use crate::prepare::{Filter, Result, invalid, unsupported};

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// On x86-64, numbers from here on are those of the x32 architecture.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const ALLOW: u32 = 0x7fff_0000;

/// `struct sock_filter`: operation, jump if true, jump if false, constant.
type Insn = (u16, u8, u8, u32);

/// The rules of one system call: conditions that must all hold, and what then.
type Rules<'a> = Vec<(Vec<&'a LinuxSeccompArg>, u32)>;

/// Compiles a profile for this architecture.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    if profile.listener_path().is_some() || profile.listener_metadata().is_some() {
        return unsupported("linux.seccomp.listenerPath", "leave it out");
    }
    check_architecture(profile)?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut calls: BTreeMap<u32, Rules<'_>> = BTreeMap::new();
    let mut newest = 0;
    for rule in profile.syscalls().iter().flatten() {
        let verdict = action(rule.action(), rule.errno_ret())?;
        let args = rule.args().as_deref().unwrap_or_default();
        if args.iter().any(|a| a.index() > 5) {
            return invalid("linux.seccomp.syscalls.args.index is above 5");
        }
        for name in rule.names() {
            let Some(number) = number(name) else {
                // Another architecture's, or newer than our table. Left out of an allow list, it stays forbidden.
                if strictness(verdict) > strictness(default) && !known_elsewhere(name) {
                    let advice = "it is unknown here and the rule would forbid it: name one that this kernel has";
                    return unsupported(format!("a seccomp rule for the system call {name:?}"), advice);
                }
                continue;
            };
            newest = newest.max(number);
            let rules = calls.entry(number).or_default();
            // Several conditions on one argument are alternatives, as runc reads them; on different ones, all must hold.
            let repeated = args.iter().enumerate().any(|(n, a)| args[..n].iter().any(|b| b.index() == a.index()));
            if repeated {
                rules.extend(args.iter().map(|arg| (vec![arg], verdict)));
            } else {
                rules.push((args.iter().collect(), verdict));
            }
        }
    }
    let bytes = encode(&generate(&calls, default, newest))?;
    Ok((bytes, flags(profile)?))
}

fn check_architecture(profile: &LinuxSeccomp) -> Result<()> {
    let native = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
    match profile.architectures() {
        // Others in the list are allowed to be there, and get less than they are promised: nothing.
        Some(list) if !list.is_empty() && !list.contains(&native) && !list.contains(&Arch::ScmpArchNative) => {
            unsupported(
                "a seccomp profile without this machine's architecture",
                "add it to linux.seccomp.architectures",
            )
        }
        _ => Ok(()),
    }
}

fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    let mut all = 0;
    for flag in profile.flags().iter().flatten() {
        all |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
            other @ LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return unsupported(format!("the seccomp flag {other:?}"), "leave it out");
            }
        };
    }
    Ok(all)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    use LinuxSeccompAction as A;
    Ok(match action {
        A::ScmpActKill | A::ScmpActKillThread => 0,
        A::ScmpActKillProcess => KILL_PROCESS,
        A::ScmpActTrap => 0x0003_0000,
        A::ScmpActErrno => match errno.unwrap_or(1) {
            errno @ 0..=4095 => ERRNO | errno,
            _ => return invalid("linux.seccomp has an errnoRet above 4095"),
        },
        A::ScmpActLog => 0x7ffc_0000,
        A::ScmpActAllow => ALLOW,
        A::ScmpActTrace | A::ScmpActNotify => {
            return unsupported(format!("the seccomp action {action:?}"), "use another: nobody would answer it");
        }
    })
}

/// The kernel's own order: the larger, the stricter.
fn strictness(action: u32) -> u8 {
    match action & 0xffff_0000 {
        KILL_PROCESS => 6,
        0 => 5,
        0x0003_0000 => 4,
        ERRNO => 3,
        0x7ffc_0000 => 1,
        _ => 0,
    }
}

fn number(name: &str) -> Option<u32> {
    let at = SYSCALLS.binary_search_by(|(n, ..)| (*n).cmp(name)).ok()?;
    let (_, x86_64, aarch64) = SYSCALLS[at];
    u32::try_from(if cfg!(target_arch = "aarch64") { aarch64 } else { x86_64 }).ok()
}

/// Calls that exist on other architectures only can't be made here.
fn known_elsewhere(name: &str) -> bool {
    const ELSEWHERE: &str = " _llseek _newselect arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush chown32 \
        fadvise64_64 fchown32 fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64 getegid32 geteuid32 getgid32 getgroups32 \
        getresgid32 getresuid32 getuid32 ipc lchown32 lstat64 mmap2 oldfstat oldlstat oldolduname oldstat olduname \
        pciconfig_iobase pciconfig_read pciconfig_write recv riscv_flush_icache riscv_hwprobe s390_guarded_storage \
        s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr s390_sthyi send sendfile64 set_tls setfsgid32 \
        setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 sigaction signal \
        sigpending sigprocmask sigreturn sigsuspend socketcall spu_create spu_run stat64 statfs64 stime swapcontext \
        switch_endian sync_file_range2 truncate64 ugetrlimit umount usr26 usr32 vm86 vm86old waitpid ";
    SYSCALLS.iter().any(|(n, ..)| *n == name) || name.ends_with("_time64") || ELSEWHERE.contains(&format!(" {name} "))
}

/// What happens from a system call number on.
#[derive(Clone, PartialEq)]
enum Leaf {
    Verdict(u32),
    Code(Vec<Insn>),
}

fn generate(calls: &BTreeMap<u32, Rules<'_>>, default: u32, newest: u32) -> Vec<Insn> {
    let mut leaves: Vec<(u32, Leaf)> = Vec::new();
    let mut push = |from: u32, leaf: Leaf| {
        if leaves.last().is_none_or(|(_, last)| *last != leaf) {
            leaves.push((from, leaf));
        }
    };
    let mut next = 0;
    for (&number, rules) in calls {
        if number > next || next == 0 && number > 0 {
            push(next, Leaf::Verdict(default));
        }
        push(number, leaf(rules, default));
        next = number + 1;
    }
    let forbids = strictness(default) >= 3;
    let beyond = if forbids && newest > 0 { ERRNO | u32::try_from(libc::ENOSYS).unwrap_or(38) } else { default };
    push(next, Leaf::Verdict(beyond));
    if cfg!(target_arch = "x86_64") {
        push(X32, Leaf::Verdict(ERRNO | u32::try_from(libc::ENOSYS).unwrap_or(38)));
    }
    let mut program = vec![(LOAD, 0, 0, 4), (JUMP_EQ, 1, 0, AUDIT_ARCH), (RETURN, 0, 0, KILL_PROCESS), (LOAD, 0, 0, 0)];
    program.extend(tree(&leaves));
    program
}

/// Halves the numbers until one leaf is left.
fn tree(leaves: &[(u32, Leaf)]) -> Vec<Insn> {
    if let [(_, leaf)] = leaves {
        return match leaf {
            Leaf::Verdict(verdict) => vec![(RETURN, 0, 0, *verdict)],
            Leaf::Code(code) => code.clone(),
        };
    }
    let (left, right) = leaves.split_at(leaves.len() / 2);
    let start = right[0].0;
    let (left, right) = (tree(left), tree(right));
    let mut program = match u8::try_from(left.len()) {
        Ok(skip) => vec![(JUMP_GE, skip, 0, start)],
        Err(_) => vec![(JUMP_GE, 0, 1, start), (JUMP, 0, 0, u32::try_from(left.len()).unwrap_or(u32::MAX))],
    };
    program.extend(left);
    program.extend(right);
    program
}

/// The rules of one call: those with conditions in order, then the one without.
fn leaf(rules: &Rules<'_>, default: u32) -> Leaf {
    let last = rules.iter().find(|(conditions, _)| conditions.is_empty()).map_or(default, |(_, verdict)| *verdict);
    let mut code = Vec::new();
    for (conditions, verdict) in rules.iter().filter(|(c, v)| !c.is_empty() && *v != last) {
        code.extend(check(conditions, *verdict));
    }
    if code.is_empty() {
        return Leaf::Verdict(last);
    }
    code.push((RETURN, 0, 0, last));
    Leaf::Code(code)
}

/// Where a jump of a condition goes; resolved to a distance once the block's length is known.
const NEXT: u8 = 0;
const PASS: u8 = 254;
const FAIL: u8 = 255;

fn check(conditions: &[&LinuxSeccompArg], verdict: u32) -> Vec<Insn> {
    let mut block: Vec<Insn> = Vec::new();
    for condition in conditions {
        let mut part = compare(condition);
        let len = part.len();
        for (n, insn) in part.iter_mut().enumerate() {
            for jump in [&mut insn.1, &mut insn.2] {
                if *jump == PASS {
                    *jump = u8::try_from(len - n - 1).unwrap_or(PASS);
                }
            }
        }
        block.extend(part);
    }
    let len = block.len();
    for (n, insn) in block.iter_mut().enumerate() {
        for jump in [&mut insn.1, &mut insn.2] {
            if *jump == FAIL {
                *jump = u8::try_from(len - n).unwrap_or(FAIL); // over the verdict
            }
        }
    }
    block.push((RETURN, 0, 0, verdict));
    block
}

/// A 64-bit comparison in two 32-bit halves (both architectures are little-endian).
fn compare(condition: &LinuxSeccompArg) -> Vec<Insn> {
    use LinuxSeccompOperator as Op;
    let low_at = 16 + 8 * u32::try_from(condition.index()).unwrap_or(0);
    let (load_low, load_high) = ((LOAD, 0, 0, low_at), (LOAD, 0, 0, low_at + 4));
    #[allow(clippy::cast_possible_truncation)]
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(condition.value());
    match condition.op() {
        Op::ScmpCmpEq => vec![load_high, (JUMP_EQ, NEXT, FAIL, high), load_low, (JUMP_EQ, NEXT, FAIL, low)],
        Op::ScmpCmpNe => vec![load_high, (JUMP_EQ, NEXT, PASS, high), load_low, (JUMP_EQ, FAIL, NEXT, low)],
        Op::ScmpCmpMaskedEq => {
            let (two_high, two_low) = halves(condition.value_two().unwrap_or(0));
            vec![
                load_high,
                (AND, 0, 0, high),
                (JUMP_EQ, NEXT, FAIL, two_high & high),
                load_low,
                (AND, 0, 0, low),
                (JUMP_EQ, NEXT, FAIL, two_low & low),
            ]
        }
        Op::ScmpCmpGt | Op::ScmpCmpGe => {
            let last = if condition.op() == Op::ScmpCmpGt { JUMP_GT } else { JUMP_GE };
            vec![load_high, (JUMP_GT, PASS, NEXT, high), (JUMP_EQ, NEXT, FAIL, high), load_low, (last, NEXT, FAIL, low)]
        }
        Op::ScmpCmpLt | Op::ScmpCmpLe => {
            let last = if condition.op() == Op::ScmpCmpLt { JUMP_GE } else { JUMP_GT };
            vec![load_high, (JUMP_GT, FAIL, NEXT, high), (JUMP_EQ, NEXT, PASS, high), load_low, (last, FAIL, NEXT, low)]
        }
    }
}

fn encode(program: &[Insn]) -> Result<Vec<u8>> {
    if program.len() > 4096 {
        return unsupported("a seccomp profile of this size", "the kernel takes 4096 instructions: use fewer rules");
    }
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for &(code, if_true, if_false, constant) in program {
        bytes.extend(code.to_ne_bytes());
        bytes.extend([if_true, if_false]);
        bytes.extend(constant.to_ne_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::decimal_bitwise_operands)] // error numbers
mod tests {
    use super::*;
    use serde_json::json;

    /// What the kernel would make of the filter.
    fn verdict(filter: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        for arg in args {
            data.extend(arg.to_ne_bytes());
        }
        let word = |at: u32| {
            let at = at as usize;
            u32::from_ne_bytes(data[at..at + 4].try_into().unwrap())
        };
        let (mut a, mut at) = (0, 0);
        loop {
            let insn = &filter[at * 8..at * 8 + 8];
            let code = u16::from_ne_bytes([insn[0], insn[1]]);
            let k = u32::from_ne_bytes(insn[4..].try_into().unwrap());
            let jump = |yes: bool| usize::from(if yes { insn[2] } else { insn[3] });
            at += 1;
            match code {
                LOAD => a = word(k),
                AND => a &= k,
                JUMP => at += k as usize,
                JUMP_EQ => at += jump(a == k),
                JUMP_GT => at += jump(a > k),
                JUMP_GE => at += jump(a >= k),
                RETURN => return k,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    fn run(profile: &LinuxSeccomp, name: &str, args: &[u64]) -> u32 {
        let (filter, _) = compile(profile).unwrap();
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        verdict(&filter, AUDIT_ARCH, number(name).unwrap(), all)
    }

    fn profile(json: serde_json::Value) -> LinuxSeccomp {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn table_is_sorted() {
        assert!(SYSCALLS.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn default_profile_allows_exactly_its_names() {
        let profile = super::super::default_profile();
        let (filter, _) = compile(&profile).unwrap();
        assert!(filter.len() / 8 < 600, "{} instructions", filter.len() / 8);
        let allowed = profile.syscalls().as_ref().unwrap()[0].names();
        let newest = allowed.iter().filter_map(|n| number(n)).max().unwrap();
        for (name, ..) in SYSCALLS {
            let Some(number) = number(name) else { continue };
            let got = verdict(&filter, AUDIT_ARCH, number, [0; 6]);
            let special = ["socket", "personality", "clone", "clone3"].contains(name);
            let expected = match *name {
                "clone3" => ERRNO | 38,
                _ if special || allowed.iter().any(|a| a == name) => ALLOW,
                _ if number > newest => ERRNO | 38,
                _ => ERRNO | 1,
            };
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn default_profile_looks_at_arguments() {
        let profile = super::super::default_profile();
        assert_eq!(run(&profile, "socket", &[2]), ALLOW);
        assert_eq!(run(&profile, "socket", &[40]), ERRNO | 1);
        assert_eq!(run(&profile, "socket", &[38]), ERRNO | 1);
        assert_eq!(run(&profile, "personality", &[8]), ALLOW);
        assert_eq!(run(&profile, "personality", &[0x004_0000]), ERRNO | 1);
        assert_eq!(run(&profile, "clone", &[0x11]), ALLOW);
        assert_eq!(run(&profile, "clone", &[0x1000_0000]), ERRNO | 1); // CLONE_NEWUSER
        assert_eq!(run(&profile, "unshare", &[0]), ERRNO | 1);
    }

    #[test]
    fn other_architectures_and_newer_calls_are_out() {
        let (filter, _) = compile(&super::super::default_profile()).unwrap();
        assert_eq!(verdict(&filter, 0x4000_0003, 1, [0; 6]), KILL_PROCESS);
        assert_eq!(verdict(&filter, AUDIT_ARCH, 999, [0; 6]), ERRNO | 38);
        assert_eq!(verdict(&filter, AUDIT_ARCH, X32 + 1, [0; 6]), ERRNO | 38);
    }

    #[test]
    fn comparisons_are_of_64_bits() {
        type Holds = fn(u64, u64) -> bool;
        let edge = 0x1_0000_0005_u64;
        let values = [0, 4, 5, 6, edge - 1, edge, edge + 1, 0x2_0000_0000, u64::MAX];
        let ops: [(&str, Holds); 6] = [
            ("SCMP_CMP_EQ", |a, b| a == b),
            ("SCMP_CMP_NE", |a, b| a != b),
            ("SCMP_CMP_LT", |a, b| a < b),
            ("SCMP_CMP_LE", |a, b| a <= b),
            ("SCMP_CMP_GT", |a, b| a > b),
            ("SCMP_CMP_GE", |a, b| a >= b),
        ];
        for (op, holds) in ops {
            let profile = profile(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                              "args": [{"index": 1, "value": edge, "op": op}]}],
            }));
            for value in values {
                let expected = if holds(value, edge) { ERRNO | 1 } else { ALLOW };
                assert_eq!(run(&profile, "mkdir", &[0, value]), expected, "{value:#x} {op} {edge:#x}");
            }
        }
    }

    #[test]
    fn conditions_on_different_arguments_all_hold_and_on_one_are_alternatives() {
        let args = |args: serde_json::Value| {
            profile(json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS", "args": args}]}))
        };
        let eq = |index: u64, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
        let both = args(json!([eq(0, 1), eq(1, 2)]));
        assert_eq!(run(&both, "mkdir", &[1, 2]), KILL_PROCESS);
        assert_eq!(run(&both, "mkdir", &[1, 3]), ALLOW);
        let either = args(json!([eq(0, 1), eq(0, 2)]));
        assert_eq!(run(&either, "mkdir", &[2]), KILL_PROCESS);
        assert_eq!(run(&either, "mkdir", &[3]), ALLOW);
    }

    #[test]
    fn unknown_names_are_left_out_only_where_that_is_stricter() {
        let names = |default: &str, action: &str| {
            profile(json!({"defaultAction": default, "syscalls": [{"names": ["brand_new", "read"], "action": action}]}))
        };
        assert!(compile(&names("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW")).is_ok());
        assert!(compile(&names("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")).is_err());
    }

    #[test]
    fn what_nobody_would_answer_is_refused() {
        for json in [
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390"]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
        ] {
            assert!(compile(&profile(json.clone())).is_err(), "{json}");
        }
    }
}
