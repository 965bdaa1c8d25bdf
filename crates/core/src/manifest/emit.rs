//! JSON values as YAML, in blocks.
//!
//! Invariant: what is written here, `yaml.rs` reads back as the same value. So a text stands plain only where YAML 1.1
//! can take it for nothing else, and in double quotes, with JSON's escapes, everywhere else.
//! Upstream: `sigs.k8s.io/yaml` (`JSONToYAML`): members in order of their names, lists not indented below their name.

use std::fmt::Write as _;

use granit_parser::ScalarStyle;
use serde_json::Value;

use super::yaml::resolve;
use crate::decode::node::Kind;

/// `value` as one YAML document, ending in a line feed.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => block(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut out),
        other => {
            scalar(other, &mut out);
            out.push('\n');
        }
    }
    out
}

/// Writes a map or a list that is not empty, whose first line is already indented.
fn block(value: &Value, depth: usize, out: &mut String) {
    let mut first = true;
    let mut indent = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            for (name, member) in members {
                indent(out);
                text(name, out);
                out.push(':');
                match member {
                    Value::Object(below) if !below.is_empty() => {
                        out.push('\n');
                        out.extend(std::iter::repeat_n("  ", depth + 1));
                        block(member, depth + 1, out);
                    }
                    Value::Array(items) if !items.is_empty() => {
                        out.push('\n');
                        out.extend(std::iter::repeat_n("  ", depth));
                        block(member, depth, out);
                    }
                    other => {
                        out.push(' ');
                        scalar(other, out);
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                indent(out);
                out.push_str("- ");
                match item {
                    Value::Object(below) if !below.is_empty() => block(item, depth + 1, out),
                    Value::Array(below) if !below.is_empty() => block(item, depth + 1, out),
                    other => {
                        scalar(other, out);
                        out.push('\n');
                    }
                }
            }
        }
        _ => unreachable!("only maps and lists are written as blocks"),
    }
}

/// Writes what fits on a line.
fn scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(value) => text(value, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => write!(out, "{other}").expect("a String takes everything"),
    }
}

fn text(text: &str, out: &mut String) {
    if is_plain(text) {
        return out.push_str(text);
    }
    for c in Value::from(text).to_string().chars() {
        // JSON takes these as they are, YAML does not.
        if matches!(c, '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') {
            write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes everything");
        } else {
            out.push(c);
        }
    }
}

/// Whether `text` without quotes is still that text.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let starts = first.is_alphanumeric() || matches!(first, '_' | '/' | '.' | '$' | '(' | '<');
    // Dates, times and numbers in base sixty.
    let like_a_number =
        first.is_ascii_digit() && text.bytes().all(|b| b.is_ascii_digit() || b"TtZz:.+- _".contains(&b));
    starts
        && !like_a_number
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !matches!(text, "<<" | "..." | ".")
        && text.chars().all(|c| c == ' ' || c.is_alphanumeric() || c.is_ascii_graphic())
        && matches!(resolve(text, ScalarStyle::Plain, None), Ok(Kind::Text(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{Limits, to_json};
    use super::*;

    #[test]
    fn maps_and_lists_are_blocks_and_empty_ones_are_not() {
        let value = json!({
            "spec": {"containers": [{"name": "c", "args": ["-x", "yes", "0777", "a b"]}], "none": [], "nested": [[1, 2], []]},
            "kind": "Job", "at": "2026-01-02T03:04:05Z", "status": {},
        });
        let expected = "\
at: \"2026-01-02T03:04:05Z\"
kind: Job
spec:
  containers:
  - args:
    - \"-x\"
    - \"yes\"
    - \"0777\"
    - a b
    name: c
  nested:
  - - 1
    - 2
  - []
  none: []
status: {}
";
        assert_eq!(to_yaml(&value), expected);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,8}".prop_map(Value::from),
            "[0-9.:eExT_+-]{0,6}".prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from),
            "[a-z\n\t:# \u{85}\u{2028}]{0,6}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\u{7f}-\u{9f}\u{feff}\u{fffe}\u{ffff}\u{10ffff}]{0,3}".prop_map(Value::from),
            prop_oneof![Just("y"), Just("off"), Just("~"), Just("<<"), Just("---"), Just("=")].prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[ -~]{1,6}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_as_it_was(value in values()) {
            let yaml = to_yaml(&value);
            let json = to_json(&yaml, &Limits::default()).map_err(|why| TestCaseError::fail(format!("{why:?}\n{yaml}")))?;
            let back: Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(back, value, "{}", yaml);
        }
    }
}
