//! That the tests which a page names are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A file of the repository.
pub fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Fails unless each of the tests, by file and name, is there and runs.
pub fn assert_shown(what: &str, tests: &[(&str, &str)]) {
    for (file, test) in tests {
        assert!(tests_in(&read(file)).contains(test), "{what}: there is no test {test} in {file}");
    }
}

/// The names of the tests in a file: functions under an attribute `#[test]` of any crate, which are not ignored; and, where
/// a file has its own `main`, what that runs as a `case!`.
fn tests_in(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let (mut is_test, mut is_ignored) = (false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            is_ignored |= line.starts_with("#[ignore") || line.starts_with("#[cfg(");
            continue;
        }
        if let Some((name, _)) = line.strip_prefix("case!(").and_then(|rest| rest.split_once(')')) {
            found.insert(name);
        }
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, _)) = name.and_then(|rest| rest.split_once('('))
            && is_test
            && !is_ignored
        {
            found.insert(name);
        }
        if !line.is_empty() && !line.starts_with("//") {
            (is_test, is_ignored) = (false, false);
        }
    }
    found
}

#[test]
fn only_tests_that_run_are_found() {
    let text = "#[test]\nfn a() {\n}\nfn b() {}\n#[test]\n#[ignore = \"slow\"]\nfn c() {}\n    #[tokio::test]\n    async fn d() {}\n    case!(e);";
    assert_eq!(tests_in(text), BTreeSet::from(["a", "d", "e"]));
}
