//! Go durations: `1h30m`, `1.5h`, `300ms`, `-2s` (`time.ParseDuration`).

use std::fmt::Write;

use jiff::SignedDuration;

/// Nanoseconds in each unit.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5
    ("μs", 1_000), // U+03BC
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// How far from zero one may be; above zero it is a nanosecond less.
const BOUND: i128 = 1 << 63;

/// Reads a duration; an error is Go's.
pub(super) fn parse(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text)));
        };
        // Digits beyond a nanosecond's worth can't matter.
        let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let fraction = &fraction[..fraction.len().min(18)];
        let places = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        let part = number(whole)
            .and_then(|whole| whole.checked_mul(*scale))
            .and_then(|whole| Some(whole + number(fraction)? * scale / places))
            .ok_or_else(invalid)?;
        total = total.checked_add(part).filter(|total| *total <= BOUND).ok_or_else(invalid)?;
        rest = after;
    }
    let total = if negative { -total } else { total };
    Ok(SignedDuration::from_nanos(i64::try_from(total).map_err(|_| invalid())?))
}

/// The text in quotes as the package `time` writes it: what is not printable ASCII in bytes.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if c < ' ' || !c.is_ascii() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                write!(quoted, "\\x{byte:02x}").expect("a String takes everything");
            }
        } else {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
    }
    quoted + "\""
}

/// The digits at the start, and what follows them.
fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in
            [("0", 0), ("+5s", 5000), ("1h2m3.5s", 3_723_500), (".5m", 30_000), ("-1.5h", -5_400_000), ("100us", 0)]
        {
            assert_eq!(parse(text).map(|duration| duration.as_millis()), Ok(millis), "{text}");
        }
        assert_eq!(parse("-9223372036854775808ns"), Ok(SignedDuration::from_nanos(i64::MIN)));
        for (text, why) in [
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("3", "time: missing unit in duration \"3\""),
            ("3d", "time: unknown unit \"d\" in duration \"3d\""),
            ("3\nä", "time: unknown unit \"\\x0a\\xc3\\xa4\" in duration \"3\\x0a\\xc3\\xa4\""),
            ("3\"", "time: unknown unit \"\\\"\" in duration \"3\\\"\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()), "{text}");
        }
    }
}
