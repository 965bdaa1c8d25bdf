//! Device rules on cgroup v2: a small eBPF program attached to the container's cgroup.
//!
//! Invariant: what no rule allows is denied; the last rule that matches a request decides, as on v1.

use std::os::fd::{AsRawFd, BorrowedFd};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::io::Result;

use crate::prepare::{self, invalid};
use crate::sys;

const LOAD_WORD: u8 = 0x61;
const MOV: u8 = 0xbc;
const MOV_CONST: u8 = 0xb7;
const AND_CONST: u8 = 0x54;
const SHIFT_RIGHT_CONST: u8 = 0x74;
const JUMP_EQ_CONST: u8 = 0x15;
const JUMP_NE_CONST: u8 = 0x55;
const EXIT: u8 = 0x95;

/// One eBPF instruction: operation, destination and source register, offset, constant.
type Insn = (u8, u8, u8, i16, i32);

/// Compiles rules into eBPF instructions, as bytes.
pub(crate) fn compile(rules: &[LinuxDeviceCgroup]) -> prepare::Result<Vec<u8>> {
    // In: r1 = { u32 access << 16 | type, u32 major, u32 minor }. Kept: r2 access, r3 type, r4 major, r5 minor.
    let mut program: Vec<Insn> = vec![
        (LOAD_WORD, 2, 1, 0, 0),
        (LOAD_WORD, 4, 1, 4, 0),
        (LOAD_WORD, 5, 1, 8, 0),
        (MOV, 3, 2, 0, 0),
        (AND_CONST, 3, 0, 0, 0xffff),
        (SHIFT_RIGHT_CONST, 2, 0, 0, 16),
    ];
    for rule in rules.iter().rev() {
        let mut block: Vec<Insn> = Vec::new();
        match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => {}
            LinuxDeviceType::B => block.push((JUMP_NE_CONST, 3, 0, 0, 1)),
            LinuxDeviceType::C | LinuxDeviceType::U => block.push((JUMP_NE_CONST, 3, 0, 0, 2)),
            LinuxDeviceType::P => return invalid("linux.resources.devices.type is \"p\""),
        }
        let access = access(rule.access().as_deref().unwrap_or("rwm"))?;
        if access != 7 {
            block.push((MOV, 1, 2, 0, 0));
            if rule.allow() {
                block.push((AND_CONST, 1, 0, 0, !access & 7)); // asks for more than the rule gives
                block.push((JUMP_NE_CONST, 1, 0, 0, 0));
            } else {
                block.push((AND_CONST, 1, 0, 0, access)); // asks for nothing that the rule takes
                block.push((JUMP_EQ_CONST, 1, 0, 0, 0));
            }
        }
        for (register, number) in [(4, rule.major()), (5, rule.minor())] {
            if let Some(number) = number.filter(|&n| n >= 0) {
                let Ok(number) = i32::try_from(number) else {
                    return invalid("linux.resources.devices has a number too large");
                };
                block.push((JUMP_NE_CONST, register, 0, 0, number));
            }
        }
        let len = block.len();
        for (n, insn) in block.iter_mut().enumerate() {
            if matches!(insn.0, JUMP_NE_CONST | JUMP_EQ_CONST) {
                insn.3 = i16::try_from(len - n + 1).unwrap_or(i16::MAX); // past this block's verdict
            }
        }
        program.extend(block);
        program.extend([(MOV_CONST, 0, 0, 0, i32::from(rule.allow())), (EXIT, 0, 0, 0, 0)]);
        if len == 0 {
            return Ok(encode(&program)); // matches everything: the rules before it never speak
        }
    }
    program.extend([(MOV_CONST, 0, 0, 0, 0), (EXIT, 0, 0, 0, 0)]);
    Ok(encode(&program))
}

fn access(text: &str) -> prepare::Result<i32> {
    let mut all = 0;
    for letter in text.chars() {
        all |= match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => return invalid(format!("linux.resources.devices.access is {text:?}")),
        };
    }
    if all == 0 { invalid("linux.resources.devices.access is empty") } else { Ok(all) }
}

fn encode(program: &[Insn]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for &(op, dst, src, offset, constant) in program {
        bytes.extend([op, dst | src << 4]);
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(constant.to_ne_bytes());
    }
    bytes
}

/// Loads the program and attaches it to a cgroup v2 folder; it goes when the folder goes.
pub(crate) fn attach(program: &[u8], cgroup: BorrowedFd<'_>) -> Result<()> {
    const PROG_LOAD: u32 = 5;
    const PROG_ATTACH: u32 = 8;
    const TYPE_CGROUP_DEVICE: u64 = 15;
    const ATTACH_CGROUP_DEVICE: u64 = 6;
    const ALLOW_MULTI: u64 = 2;
    let count = (program.len() / 8) as u64;
    let license = c"Apache-2.0";
    let load = [TYPE_CGROUP_DEVICE | count << 32, program.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0];
    let loaded = sys::own_bpf(sys::bpf(PROG_LOAD, &load)?);
    let raw = |fd: i32| u64::try_from(fd).unwrap_or(u64::MAX);
    let target = raw(cgroup.as_raw_fd()) | raw(loaded.as_raw_fd()) << 32;
    sys::bpf(PROG_ATTACH, &[target, ATTACH_CGROUP_DEVICE | ALLOW_MULTI << 32]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, interpreted.
    fn verdict(program: &[u8], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u32; 6];
        let mut at = 0;
        loop {
            let insn = &program[at * 8..at * 8 + 8];
            let (dst, src) = (usize::from(insn[1] & 15), usize::from(insn[1] >> 4));
            let offset = i16::from_ne_bytes([insn[2], insn[3]]);
            let constant = i32::from_ne_bytes([insn[4], insn[5], insn[6], insn[7]]).cast_unsigned();
            at += 1;
            let jump = usize::try_from(offset).unwrap();
            match insn[0] {
                LOAD_WORD => registers[dst] = context[usize::try_from(offset / 4).unwrap()],
                MOV => registers[dst] = registers[src],
                MOV_CONST => registers[dst] = constant,
                AND_CONST => registers[dst] &= constant,
                SHIFT_RIGHT_CONST => registers[dst] >>= constant,
                JUMP_EQ_CONST if registers[dst] == constant => at += jump,
                JUMP_NE_CONST if registers[dst] != constant => at += jump,
                JUMP_EQ_CONST | JUMP_NE_CONST => {}
                EXIT => return registers[0] != 0,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_default_rules_allow_the_standard_devices_only() {
        let spec = crate::default_spec();
        let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        let program = compile(resources.devices().as_ref().unwrap()).unwrap();
        let (block, char) = (1, 2);
        let (mknod, read, write) = (1, 2, 4);
        assert!(verdict(&program, char, read | write, 1, 3), "/dev/null");
        assert!(verdict(&program, char, read | write, 5, 2), "/dev/ptmx");
        assert!(verdict(&program, char, read, 136, 7), "a pseudo terminal");
        assert!(!verdict(&program, char, read, 1, 1), "/dev/mem");
        assert!(!verdict(&program, block, read, 8, 0), "a disk");
        assert!(verdict(&program, block, mknod, 8, 0), "making a node gives no access");
        assert!(!verdict(&program, block, mknod | read, 8, 0));
    }
}
