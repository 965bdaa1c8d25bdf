//! Kubernetes quantities: `500m`, `1.5Gi`, `2e3`; exact, and printed in canonical form.
//!
//! Invariant: no rounding but the one upstream does: finer than a billionth is rounded up (away from zero), larger
//! than 2^63-1 is capped.
//! Upstream: `staging/src/k8s.io/apimachinery/pkg/api/resource/quantity.go` (`ParseQuantity`, `CanonicalizeBytes`), v1.36.

use std::cmp::Ordering;
use std::fmt;

/// The text is not a quantity.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

/// How a quantity's magnitude is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `m`, none, `k`, `M`, …
    Decimal,
    /// `Ki`, `Mi`, …
    Binary,
    /// `e3`, `e6`, …
    Exponent,
}

/// An exact amount, in billionths, that remembers how it was written.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANOS: i128 = 1_000_000_000;
const MAX_NANOS: i128 = i64::MAX as i128 * NANOS;

/// Parses a quantity such as `100m`, `0.5`, `2Gi` or `1e3`.
pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(QuantityError);
    }
    let (format, base, exponent) = suffix_scale(suffix)?;

    let digits = format!("{whole}{fraction}");
    let mut magnitude = Magnitude::new(digits.trim_start_matches('0'));
    let scale = i64::try_from(fraction.len()).map_err(|_| QuantityError)?;
    if base == 2 {
        magnitude.multiply_by_two_to(exponent);
        magnitude.shift_decimal(9 - scale);
    } else {
        magnitude.shift_decimal(9 - scale + exponent);
    }
    let nanos = magnitude.value.min(MAX_NANOS);
    Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
}

/// A non-negative number that saturates, and rounds up what it drops.
struct Magnitude {
    value: i128,
    /// Decimal digits that did not fit, still to be multiplied in.
    shift: i64,
    inexact: bool,
}

impl Magnitude {
    fn new(digits: &str) -> Magnitude {
        // 27 digits keep every amount below the cap exact with nine decimals and a binary suffix.
        let kept = &digits[..digits.len().min(27)];
        let dropped = &digits[kept.len()..];
        Magnitude {
            value: kept.bytes().fold(0, |sum, b| sum * 10 + i128::from(b - b'0')),
            shift: i64::try_from(dropped.len()).unwrap_or(i64::MAX / 2),
            inexact: dropped.bytes().any(|b| b != b'0'),
        }
    }

    fn multiply_by_two_to(&mut self, exponent: i64) {
        for _ in 0..exponent {
            self.value = self.value.saturating_mul(2);
        }
    }

    fn shift_decimal(&mut self, by: i64) {
        let shift = by.saturating_add(self.shift);
        for _ in 0..shift.clamp(0, 64) {
            self.value = self.value.saturating_mul(10);
        }
        for _ in 0..(-shift.max(-64)).max(0) {
            self.inexact |= self.value % 10 != 0;
            self.value /= 10;
        }
        if self.inexact {
            self.value = self.value.saturating_add(1);
            self.inexact = false;
        }
    }
}

fn suffix_scale(suffix: &str) -> Result<(Format, u8, i64), QuantityError> {
    Ok(match suffix {
        "n" => (Format::Decimal, 10, -9),
        "u" => (Format::Decimal, 10, -6),
        "m" => (Format::Decimal, 10, -3),
        "" => (Format::Decimal, 10, 0),
        "k" => (Format::Decimal, 10, 3),
        "M" => (Format::Decimal, 10, 6),
        "G" => (Format::Decimal, 10, 9),
        "T" => (Format::Decimal, 10, 12),
        "P" => (Format::Decimal, 10, 15),
        "E" => (Format::Decimal, 10, 18),
        "Ki" => (Format::Binary, 2, 10),
        "Mi" => (Format::Binary, 2, 20),
        "Gi" => (Format::Binary, 2, 30),
        "Ti" => (Format::Binary, 2, 40),
        "Pi" => (Format::Binary, 2, 50),
        "Ei" => (Format::Binary, 2, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError);
            }
            let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
            (Format::Exponent, 10, i64::from(exponent))
        }
    })
}

impl Quantity {
    /// The sum, written as the first part is unless that is zero. Upstream: `Quantity.Add`.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos).clamp(-MAX_NANOS, MAX_NANOS), format }
    }

    /// Whole units, written by powers of 1024 where that says them exactly: bytes, mostly.
    pub fn binary(units: u64) -> Quantity {
        Quantity { nanos: i128::from(units).saturating_mul(NANOS).min(MAX_NANOS), format: Format::Binary }
    }

    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::Decimal };

    /// Thousandths, rounded up.
    pub fn milli(&self) -> i128 {
        ceil_div(self.nanos, NANOS / 1000)
    }

    /// Whole units, rounded up.
    pub fn value(&self) -> i128 {
        ceil_div(self.nanos, NANOS)
    }

    /// Whether it is a whole number of units, seen in thousandths.
    pub fn is_integer(&self) -> bool {
        self.milli() % 1000 == 0
    }

    /// Rounds up to whole thousandths, as defaulting does with resources.
    #[must_use]
    pub fn round_up_to_milli(self) -> Quantity {
        let thousandth = NANOS / 1000;
        // Away from zero, unlike `milli`: upstream's RoundUp.
        let nanos = if self.nanos % thousandth == 0 {
            self.nanos
        } else {
            (self.nanos / thousandth + self.nanos.signum()) * thousandth
        };
        Quantity { nanos, ..self }
    }
}

fn ceil_div(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b > 0 { quotient + 1 } else { quotient }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, and the largest suffix that keeps the amount exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Binary suffixes can't say fractions, and small amounts read better without: upstream's rule.
        let binary = self.format == Format::Binary && self.nanos % NANOS == 0 && self.nanos.abs() >= 1024 * NANOS;
        if binary {
            let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let mut amount = self.nanos / NANOS;
            let mut step = 0;
            while amount % 1024 == 0 && step + 1 < suffixes.len() {
                amount /= 1024;
                step += 1;
            }
            return write!(f, "{amount}{}", suffixes[step]);
        }
        let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let mut amount = self.nanos;
        let mut step = 0;
        while amount % 1000 == 0 && step + 1 < suffixes.len() {
            amount /= 1000;
            step += 1;
        }
        if self.format == Format::Exponent && !suffixes[step].is_empty() {
            let exponent = i64::try_from(step).unwrap_or_default() * 3 - 9;
            write!(f, "{amount}e{exponent}")
        } else {
            write!(f, "{amount}{}", suffixes[step])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string()
    }

    #[test]
    fn canonical_form_keeps_the_family_of_the_suffix() {
        for (text, expected) in [
            ("0", "0"),
            ("1", "1"),
            ("1.5", "1500m"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("100000", "100k"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-3", "12e-3"),
            ("1E", "1E"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            (".5", "500m"),
            ("1.", "1"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("1Ei", "1Ei"),
            ("9999999999999999999", "9223372036854775807"),
            ("1.5Ki", "1536"),
            ("0.0001Ki", "102400u"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", "x", "1x", "1..", "1.2.3", "1 Gi", "1gi", "Gi", "-", "1e", "1e1.5", "1mi", "--1", "é"] {
            assert_eq!(parse(text), Err(QuantityError), "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        let tenth = parse("100m").unwrap();
        assert_eq!((tenth.milli(), tenth.value()), (100, 1));
        assert_eq!(parse("1u").unwrap().milli(), 1);
        assert_eq!(parse("128Mi").unwrap().value(), 134_217_728);
        assert_eq!(parse("0.1u").unwrap().round_up_to_milli().to_string(), "1m");
        assert!(parse("1500m").unwrap() < parse("2").unwrap());
        assert_eq!(parse("1Ki").unwrap(), parse("1024").unwrap());
    }

    #[test]
    fn absurd_exponents_are_capped_quickly() {
        assert_eq!(parse("1e2147483647").unwrap().value(), i128::from(i64::MAX));
        assert_eq!(canonical("1e-2147483647"), "1e-9");
        assert_eq!(canonical(&format!("0.{}1", "0".repeat(100_000))), "1n");
        assert_eq!(parse(&"9".repeat(100_000)).unwrap().value(), i128::from(i64::MAX));
        assert_eq!(canonical("0e2147483647"), "0");
    }
}
