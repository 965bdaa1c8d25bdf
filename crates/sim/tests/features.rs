//! That what is claimed of Jobs is shown, and the pages that claim it are current.

#[path = "../../server/tests/support/shown.rs"]
mod shown;

use shown::{assert_shown, read};
use stint_sim::features::{GROUPS, page, rows};

#[test]
fn every_feature_is_shown_by_tests_that_are_there() {
    for feature in GROUPS.iter().flat_map(|group| group.features) {
        assert!(!feature.tests.is_empty(), "{} is shown by a test", feature.name);
        assert_shown(feature.name, feature.tests);
    }
}

#[test]
fn the_page_and_readmes_rows_are_current() {
    let how = "cargo run -p stint-sim --example features";
    assert_eq!(read("docs/jobs.md"), page(), "run `{how} > docs/jobs.md`");
    assert!(read("README.md").contains(&rows()), "`{how} rows` prints what README's table is to say");
}
