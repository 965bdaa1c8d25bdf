//! That what is claimed of Jobs is shown, and the pages that claim it are current.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stint_sim::features::{GROUPS, page, rows};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The names of the tests in a file: functions under an attribute `#[test]` of any crate, which are not ignored.
fn tests_in(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let (mut is_test, mut is_ignored) = (false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            is_ignored |= line.starts_with("#[ignore") || line.starts_with("#[cfg(");
            continue;
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
fn every_feature_is_shown_by_tests_that_are_there() {
    for feature in GROUPS.iter().flat_map(|group| group.features) {
        assert!(!feature.tests.is_empty(), "{} is shown by a test", feature.name);
        for (file, test) in feature.tests {
            assert!(tests_in(&read(file)).contains(test), "{}: there is no test {test} in {file}", feature.name);
        }
    }
}

#[test]
fn only_tests_that_run_are_found() {
    let text = "#[test]\nfn a() {\n}\nfn b() {}\n#[test]\n#[ignore = \"slow\"]\nfn c() {}\n    #[tokio::test]\n    async fn d() {}";
    assert_eq!(tests_in(text), BTreeSet::from(["a", "d"]));
}

#[test]
fn the_page_and_readmes_rows_are_current() {
    let how = "cargo run -p stint-sim --example features";
    assert_eq!(read("docs/jobs.md"), page(), "run `{how} > docs/jobs.md`");
    assert!(read("README.md").contains(&rows()), "`{how} rows` prints what README's table is to say");
}
