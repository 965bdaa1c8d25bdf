//! Names, labels and their syntax: each check answers with the API server's reasons, empty when the text is fine.
//!
//! Invariant: the texts are interface; clients and tests match them.
//! Left out: which field needs which syntax (see `validate`).
//! Upstream: `staging/src/k8s.io/apimachinery/pkg/util/validation/validation.go` and `pkg/api/validate/content`, v1.36.
//! Lengths of label keys and values are told in bytes, those of DNS names in characters: upstream's, both.

const QUALIFIED_NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_NAME_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const DNS_LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS_SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// The longest base to which [`generate_name`] adds a suffix.
pub const MAX_GENERATED_BASE: usize = 58;

/// `base` cut to 58 bytes followed by `suffix`, so that a 5-byte suffix gives at most 63.
///
/// Upstream: `apiserver/pkg/storage/names/generate.go`, `simpleNameGenerator.GenerateName`.
pub fn generate_name(base: &str, suffix: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

/// What `base` of a generated name must be: its last dash stands for the suffix to come.
pub fn mask_trailing_dash(base: &str) -> String {
    match base.strip_suffix('-') {
        // Upstream drops the character before the dash too; what is left is as valid as the whole.
        Some(rest) if !rest.is_empty() => {
            let mut end = rest.len() - 1;
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            format!("{}a", &rest[..end])
        }
        _ => base.to_owned(),
    }
}

/// A DNS label (RFC 1123), at most 63 characters.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if text.len() > 63 {
        reasons.push(max_characters(63));
    }
    if !is_dns_label(text) {
        if is_dns_subdomain(text) {
            reasons.push("must not contain dots".to_owned());
        } else {
            reasons.push(pattern(DNS_LABEL_TEXT, DNS_LABEL, &["my-name", "123-abc"]));
        }
    }
    reasons
}

/// A DNS subdomain (RFC 1123), at most 253 characters.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if text.len() > 253 {
        reasons.push(max_characters(253));
    }
    if !is_dns_subdomain(text) {
        reasons.push(pattern(DNS_SUBDOMAIN_TEXT, DNS_SUBDOMAIN, &["example.com"]));
    }
    reasons
}

/// A label key or other qualified name: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut reasons = Vec::new();
    let (prefix, name) = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => (None, name),
        [prefix, name] => (Some(prefix), name),
        _ => {
            let rule = pattern(QUALIFIED_NAME_TEXT, QUALIFIED_NAME, &examples);
            return vec![format!(
                "a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    match prefix {
        Some("") => reasons.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            reasons.extend(dns_subdomain(prefix).iter().map(|r| format!("prefix part {r}")));
        }
        None => {}
    }
    if name.is_empty() {
        reasons.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        reasons.push(format!("name part {}", max_bytes(63)));
    }
    if !is_qualified_part(name) {
        let rule = pattern(QUALIFIED_NAME_TEXT, QUALIFIED_NAME, &examples);
        reasons.push(format!("name part {rule}"));
    }
    reasons
}

/// A label value: empty, or like the name of a qualified name.
pub fn label_value(text: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if text.len() > 63 {
        reasons.push(max_bytes(63));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        reasons.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED_NAME})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    reasons
}

/// An environment variable's name under the relaxed rule: printable ASCII without `=`.
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if text.len() > 253 {
        reasons.push(max_characters(253));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        reasons.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => reasons.push("must not be '.'".to_owned()),
        ".." => reasons.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => reasons.push("must not start with '..'".to_owned()),
        _ => {}
    }
    reasons
}

/// A DNS label of RFC 1035, at most 63 characters: it begins with a letter.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if text.len() > 63 {
        reasons.push(max_characters(63));
    }
    if !is_dns_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        reasons.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    reasons
}

/// What can be a segment of a path: no slash, no percent sign, no dots alone.
///
/// Upstream: `apimachinery/pkg/api/validation/path/name.go`, `IsValidPathSegmentName`.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let unfit = |part: &&str| text.contains(*part);
    ["/", "%"].iter().filter(|part| unfit(part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// The name of a port: at most 15 of `a-z`, `0-9` and `-`, with a letter, no double dash and no dash at an end.
pub fn port_name(text: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if text.len() > 15 {
        reasons.push(max_characters(15));
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') || text.is_empty() {
        reasons.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        reasons.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        reasons.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        reasons.push("must not begin or end with a hyphen".to_owned());
    }
    reasons
}

/// The name of an HTTP header.
pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Vec::new();
    }
    vec![pattern(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// ``must be between lo and hi, inclusive``.
pub fn inclusive_range(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}

/// Whether `text` is a DNS label, its length aside.
fn is_dns_label(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&a), Some(&z)) if alnum(a) && alnum(z))
        && bytes.iter().all(|&b| alnum(b) || b == b'-')
}

fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `rule (e.g. 'a',  or 'b', regex used for validation is '…')`, blanks as upstream prints them.
fn pattern(rule: &str, regex: &str, examples: &[&str]) -> String {
    let examples = examples.iter().map(|e| format!("'{e}', ")).collect::<Vec<_>>().join(" or ");
    format!("{rule} (e.g. {examples}regex used for validation is '{regex}')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_in_a_label() {
        assert_eq!(generate_name("a-", "x4z9w"), "a-x4z9w");
        assert_eq!(generate_name(&"b".repeat(70), "x4z9w").len(), 63);
        assert_eq!(generate_name(&"é".repeat(40), "x").chars().count(), 30);
    }

    #[test]
    fn a_trailing_dash_is_fine_in_a_base() {
        assert!(dns_subdomain(&mask_trailing_dash("job-")).is_empty());
        assert!(!dns_subdomain(&mask_trailing_dash("-")).is_empty());
        assert!(!dns_subdomain("job-").is_empty());
    }

    #[test]
    fn labels_and_subdomains_differ_in_dots() {
        assert!(dns_label("my-name").is_empty());
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert!(dns_subdomain("a.b").is_empty());
        for bad in ["", "A", "a..b", "-a", "a-", "a_b"] {
            assert_eq!(dns_subdomain(bad).len(), 1, "{bad}");
        }
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
    }

    #[test]
    fn qualified_names_have_one_optional_prefix() {
        for good in ["a", "example.com/My_Name.x", "1"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("").len(), 2);
        assert!(qualified_name("a/b/c")[0].starts_with("a qualified name must consist"));
        assert!(qualified_name("A_b/c")[0].starts_with("prefix part a lowercase RFC 1123 subdomain"));
    }

    #[test]
    fn port_names_have_a_letter() {
        assert!(port_name("http-1").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_name("a--b").len(), 1);
    }
}
