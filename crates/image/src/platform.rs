//! Platforms: which of the images behind one name runs on this machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operating system and a processor architecture, in the words of the OCI image specification (Go's).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system, `linux`.
    #[serde(default)]
    pub os: String,
    /// The architecture, such as `amd64` or `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// The variant of the architecture, such as `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine that this program was compiled for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None), // riscv64, s390x, mips64: the same word in both worlds
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// The position of the platform among `available` that suits this one best.
    ///
    /// An equal variant first, then one that names no variant, then the lowest-demanding one: for `arm` the highest that
    /// is not above ours, for the others the baseline (`v1` of `amd64`, `v8` of `arm64`). A variant above ours never runs.
    pub(crate) fn choose(&self, available: &[Self]) -> Option<usize> {
        let rank = |other: &Self| -> Option<u32> {
            if other.os != self.os || other.architecture != self.architecture {
                return None;
            }
            let (ours, theirs) = (self.level(), other.level());
            match &other.variant {
                _ if self.variant == other.variant => Some(1000),
                None => Some(900),
                Some(_) if theirs <= ours => Some(theirs),
                Some(_) => None,
            }
        };
        let ranked = available.iter().enumerate().filter_map(|(place, other)| Some((rank(other)?, place)));
        // The first of several equals wins, as it is the order in which the publisher wrote them.
        ranked.max_by_key(|(rank, place)| (*rank, usize::MAX - place)).map(|(_, place)| place)
    }

    /// The number in the variant, with each architecture's baseline where none is named.
    fn level(&self) -> u32 {
        let baseline = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        let number = |variant: &String| variant.trim_start_matches('v').parse().ok();
        self.variant.as_ref().and_then(number).unwrap_or(baseline)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: Some(next()).filter(|v| !v.is_empty()) }
    }

    #[test]
    fn the_best_variant_that_runs_here_is_chosen() {
        let cases = [
            ("linux/amd64", "linux/arm64 linux/amd64", Some(1)),
            ("linux/amd64", "linux/amd64/v3 linux/amd64", Some(1)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64", "linux/amd64/v1", Some(0)),
            ("linux/amd64", "windows/amd64 linux/386", None),
            ("linux/arm64/v8", "linux/arm/v7 linux/arm64", Some(1)),
            ("linux/arm64/v8", "linux/arm64 linux/arm64/v8", Some(1)),
            ("linux/arm/v7", "linux/arm/v5 linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7 linux/arm/v5", Some(1)),
            ("linux/amd64", "linux/amd64 linux/amd64", Some(0)),
            ("linux/amd64", "unknown/unknown", None),
        ];
        for (ours, available, expected) in cases {
            let available: Vec<_> = available.split(' ').map(platform).collect();
            assert_eq!(platform(ours).choose(&available), expected, "{ours} among {available:?}");
        }
    }
}
