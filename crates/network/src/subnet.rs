//! Subnets of IPv4: what they hold, whether two overlap, and which address comes next.
//!
//! Invariant: pure. The first address of a subnet is the node's own, its bridge's; the last is everybody's.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A block of addresses, as `10.85.0.0/22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    bits: u8,
}

impl Subnet {
    /// The block of `2^(32 - bits)` addresses that `address` is in. `None` for more than 32 bits.
    pub fn new(address: Ipv4Addr, bits: u8) -> Option<Subnet> {
        let size = 32_u32.checked_sub(bits.into())?;
        let mask = u32::MAX.checked_shl(size).unwrap_or(0);
        Some(Subnet { base: u32::from(address) & mask, bits })
    }

    /// How many of an address's bits the subnet's addresses have in common.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The address that names the subnet.
    pub fn base(self) -> Ipv4Addr {
        self.base.into()
    }

    /// The node's own address in it.
    pub fn gateway(self) -> Ipv4Addr {
        self.base.wrapping_add(1).into()
    }

    /// The address of every pod at once.
    pub fn broadcast(self) -> Ipv4Addr {
        self.last().into()
    }

    /// The bits that addresses have in common, as a mask.
    pub fn mask(self) -> Ipv4Addr {
        u32::MAX.checked_shl(u32::from(32 - self.bits)).unwrap_or(0).into()
    }

    fn last(self) -> u32 {
        self.base | !u32::from(self.mask())
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: Subnet) -> bool {
        self.base <= other.last() && other.base <= self.last()
    }

    /// Whether the address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.base..=self.last()).contains(&address.into())
    }

    /// The blocks of `2^(32 - bits)` addresses that it is made of.
    pub fn parts(self, bits: u8) -> impl Iterator<Item = Subnet> {
        let step = 1_u64 << (32 - u64::from(bits.clamp(self.bits, 32)));
        let (base, last) = (u64::from(self.base), u64::from(self.last()));
        let at = move |n: u64| base + n * step;
        (0..)
            .map(at)
            .take_while(move |&base| base <= last)
            .map(move |base| Subnet { base: u32::try_from(base).unwrap_or(u32::MAX), bits: bits.max(self.bits) })
    }

    /// The address of the next pod after one that had `last`: the next that is not `taken`, so that one is used again as late
    /// as possible. `None` when all are taken.
    pub fn next(self, last: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let (first, end) = (self.base.checked_add(2)?, self.last().checked_sub(1)?);
        let start = last.map(u32::from).filter(|last| (first..end).contains(last)).map_or(first, |last| last + 1);
        (start..=end).chain(first..start).map(Ipv4Addr::from).find(|&address| !taken(address))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.bits)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Subnet, String> {
        let hint = || format!("{text:?} is no block of IPv4 addresses: give one like 10.85.0.0/22");
        let (address, bits) = text.split_once('/').ok_or_else(hint)?;
        let (address, bits): (Ipv4Addr, u8) = (address.parse().map_err(|_| hint())?, bits.parse().map_err(|_| hint())?);
        let subnet = Subnet::new(address, bits).ok_or_else(hint)?;
        if subnet.base() != address {
            return Err(format!("{text:?} names an address within a block: the block is {subnet}"));
        }
        Ok(subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_and_say_what_is_wrong() {
        assert_eq!(subnet("10.85.4.0/22").to_string(), "10.85.4.0/22");
        assert_eq!(subnet("10.85.4.0/22").gateway(), Ipv4Addr::new(10, 85, 4, 1));
        assert_eq!(subnet("10.85.4.0/22").broadcast(), Ipv4Addr::new(10, 85, 7, 255));
        assert_eq!(subnet("0.0.0.0/0").mask(), Ipv4Addr::UNSPECIFIED);
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/x", "10.0.0/8", "fd00::/8"] {
            assert!(bad.parse::<Subnet>().unwrap_err().contains("no block"), "{bad}");
        }
        assert!("10.85.4.1/22".parse::<Subnet>().unwrap_err().contains("the block is 10.85.4.0/22"));
    }

    #[test]
    fn overlaps_are_seen_from_both_sides() {
        let cases = [
            ("10.0.0.0/8", "10.85.0.0/22", true),
            ("10.85.0.0/22", "10.85.4.0/22", false),
            ("0.0.0.0/0", "1.2.3.4/32", true),
            ("192.168.0.0/16", "192.169.0.0/16", false),
        ];
        for (a, b, overlap) in cases {
            assert_eq!(subnet(a).overlaps(subnet(b)), overlap, "{a} {b}");
            assert_eq!(subnet(b).overlaps(subnet(a)), overlap, "{b} {a}");
        }
    }

    #[test]
    fn a_block_falls_into_its_parts() {
        let parts: Vec<String> = subnet("10.85.0.0/22").parts(24).map(|part| part.to_string()).collect();
        assert_eq!(parts, ["10.85.0.0/24", "10.85.1.0/24", "10.85.2.0/24", "10.85.3.0/24"]);
        assert_eq!(subnet("10.85.0.0/16").parts(22).count(), 64);
        assert_eq!(subnet("255.255.255.0/24").parts(25).count(), 2);
    }

    #[test]
    fn every_address_is_given_once_before_one_is_given_again() {
        let block = subnet("10.85.0.0/29");
        let mut last = None;
        let mut given = Vec::new();
        for _ in 0..5 {
            last = block.next(last, |_| false);
            given.push(last.unwrap().octets()[3]);
        }
        assert_eq!(given, [2, 3, 4, 5, 6], "without the block's own, the node's and the last address");
        assert_eq!(block.next(last, |_| false), Some(Ipv4Addr::new(10, 85, 0, 2)));
        assert_eq!(block.next(last, |a| a.octets()[3] != 4), Some(Ipv4Addr::new(10, 85, 0, 4)));
        assert_eq!(block.next(last, |_| true), None);
        assert_eq!(subnet("10.85.0.0/31").next(None, |_| false), None, "too small for a pod");
    }
}
