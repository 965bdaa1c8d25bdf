//! Good things gone bad: values that nobody thinks of, at places where they do not belong, and bytes that changed.

use serde_json::{Value, json};

use crate::dice::Dice;

/// Values that somebody forgot.
pub fn odd(dice: &mut Dice<'_>) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(0.5),
        json!(2_147_483_648_u64),
        json!(""),
        json!("\u{0}"),
        json!("ä€😀"),
        json!("../.."),
        json!("-"),
        json!("0"),
        json!("1e999999999"),
        json!("9999999999999999999999999Ei"),
        json!("-1n"),
        json!("0001-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:59Z"),
        json!("-0001-01-01T00:00:00Z"),
        json!("2026-02-30T00:00:00Z"),
        json!("H * * * *"),
        json!("@every 1ns"),
        json!("59 23 31 2 *"),
        json!("TZ=x * * * * *"),
        json!("0-4294967295"),
        json!("1,2,,"),
        json!([]),
        json!({}),
        json!([null]),
        json!([[]]),
        json!({"": ""}),
        json!({"$patch": "delete"}),
        json!({"$patch": "replace"}),
        json!({"$patch": 1}),
        json!([{"$patch": "merge"}]),
        json!({"$retainKeys": ["x"]}),
        json!({"$setElementOrder/containers": [{"name": "c"}]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["x"]}),
        json!({"matchExpressions": [{"key": "", "operator": "In"}]}),
        json!({"exec": {}, "httpGet": {}}),
        json!({"f:spec": {"k:{\"name\":1}": {}, ".": {}}}),
    ];
    dice.one(&all)
}

/// Puts something odd somewhere into `value`.
pub fn twist(value: &mut Value, dice: &mut Dice<'_>) {
    let deeper = dice.below(8) > 0;
    match value {
        Value::Object(members) if deeper && !members.is_empty() => {
            let keys: Vec<String> = members.keys().cloned().collect();
            let key = dice.one(&keys);
            match dice.below(12) {
                0 => drop(members.remove(&key)),
                1 => drop(
                    members
                        .insert(dice.one(&["name", "$patch", "", "labels", "spec", "metadata", "x"]).into(), odd(dice)),
                ),
                _ => twist(&mut members[&key], dice),
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = dice.below(items.len());
            match dice.below(10) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => twist(&mut items[at], dice),
            }
        }
        other => *other = odd(dice),
    }
}

/// Changes bytes, cuts and repeats.
pub fn scramble(bytes: &mut Vec<u8>, dice: &mut Dice<'_>) {
    for _ in 0..=dice.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << dice.below(8),
            2 => drop(bytes.remove(at)),
            3 => {
                let token = dice.one(&[
                    &b"{"[..],
                    b"}",
                    b"[",
                    b"]",
                    b",",
                    b":",
                    b"\"",
                    b"\\u0000",
                    b"\xff",
                    b"\n",
                    b"&a ",
                    b"*a",
                    b"<<: ",
                ]);
                drop(bytes.splice(at..at, token.iter().copied()));
            }
            4 => {
                let end = (at + dice.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            _ => bytes[at] = dice.byte(),
        }
    }
}
