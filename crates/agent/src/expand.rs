//! `$(VAR)` in commands, arguments and environment values, as Kubernetes replaces it.
//!
//! Upstream: `third_party/forked/golang/expansion/expand.go`, `Expand`: a reference to a variable that is not set stays
//! as it is, `$$` stands for `$`, and a `$` before anything else is a `$`.

/// Replaces the references in `text` by what `value` says of them.
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match after.chars().next() {
            Some('$') => {
                out.push('$');
                &after[1..]
            }
            Some('(') => {
                if let Some(end) = after.find(')') {
                    let name = &after[1..end];
                    match value(name) {
                        Some(value) => out.push_str(value),
                        None => out.extend(["$(", name, ")"]),
                    }
                    &after[end + 1..]
                } else {
                    out.push_str("$(");
                    &after[1..]
                }
            }
            Some(other) => {
                out.push('$');
                out.push(other);
                &after[other.len_utf8()..]
            }
            None => {
                out.push('$');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_upstream_does() {
        let value = |name: &str| match name {
            "VAR_A" => Some("A"),
            "VAR_B" => Some("B"),
            "VAR_EMPTY" => Some(""),
            "VAR_REF" => Some("$(VAR_A)"),
            _ => None,
        };
        let table = [
            ("", ""),
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_B)", "AB"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$(DOOP)", "$(DOOP)"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$VAR_A", "$VAR_A"),
            ("f000-$VAR_A", "f000-$VAR_A"),
            ("$(VAR_A", "$(VAR_A"),
            ("$()", "$()"),
            ("$", "$"),
            ("$$", "$"),
            ("\\$(VAR_A)", "\\A"),
            ("$ä$(VAR_A)", "$äA"),
            ("$(ä)", "$(ä)"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }
}
