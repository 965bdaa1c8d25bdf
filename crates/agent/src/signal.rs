//! Names of signals, as `lifecycle.stopSignal` and images' `StopSignal` have them.

/// `SIGTERM`.
pub(crate) const TERM: i32 = 15;

/// The number of a signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub(crate) fn number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let upper = name.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let found = if let Ok(number) = short.parse::<i32>() {
        number
    } else if let Some(at) = NAMES.iter().position(|known| *known == short) {
        i32::try_from(at).ok()? + 1
    } else if let Some(rest) = short.strip_prefix("RTMIN") {
        RTMIN.checked_add(if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? })?
    } else {
        let rest = short.strip_prefix("RTMAX")?;
        RTMAX.checked_sub(if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? })?
    };
    (1..=RTMAX).contains(&found).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGUSR1", Some(10)),
            ("SIGSYS", Some(31)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("SIGNONE", None),
            ("", None),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
    }
}
