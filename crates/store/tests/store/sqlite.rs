//! The SQLite disk: what it keeps, and whom it lets in.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use stint_store::{Entry, Error, Mutation, Outcome, Revision, SqliteDisk, Store};

use crate::model::{Model, intents};
use crate::{runtime, value, written};

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(SqliteDisk::open(folder.path()).expect("the data file opens")).expect("it loads")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reopened_store_goes_on_where_it_was(intents in intents(), reopen in 1_usize..50) {
        let (folder, mut model, runtime) = (tempfile::tempdir().unwrap(), Model::default(), runtime());
        let mut store = open(&folder);
        for (step, intent) in intents.iter().enumerate() {
            if step % reopen == reopen - 1 {
                drop(store);
                store = open(&folder);
                prop_assert_eq!(store.revision(), model.revision);
                prop_assert!(store.list("").entries.iter().eq(model.entries.values()));
            }
            let (mutation, expected) = model.step(intent);
            prop_assert_eq!(runtime.block_on(store.write(mutation)).unwrap(), expected);
        }
    }
}

#[test]
fn deletion_as_the_last_write_keeps_its_revision() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    runtime().block_on(async {
        let Entry { revision, .. } = written(store.write(Mutation::create("a", value("a"))).await);
        assert!(matches!(store.write(Mutation::delete("a", revision, value("a"))).await, Ok(Outcome::Written(_))));
    });
    drop(store);
    let store = open(&folder);
    assert_eq!((store.revision(), store.list("").entries.len()), (Revision(2), 0));
}

#[test]
fn second_store_over_one_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let error = SqliteDisk::open(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::InUse { folder: named } if named == folder.path()));
    assert!(error.to_string().ends_with("stop that one, or choose another data folder"), "{error}");
    // The refused attempt has not let go of the lock.
    assert!(matches!(SqliteDisk::open(folder.path()), Err(Error::InUse { .. })));
    drop(store);
    open(&folder);
}

#[test]
fn files_are_readable_by_their_user_only() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("new/data");
    let store = Store::open(SqliteDisk::open(&folder).unwrap()).unwrap();
    runtime().block_on(store.write(Mutation::create("secret", value("secret")))).unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in folder.read_dir().unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn file_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let connection = rusqlite::Connection::open(SqliteDisk::path(folder.path())).unwrap();
    connection.pragma_update(None, "user_version", 9).unwrap();
    drop(connection);
    let error = SqliteDisk::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 9, known: 1, .. }), "{error}");
}

#[test]
fn file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        SqliteDisk::path(folder.path()),
        "this is no database, but long enough to be taken for one".repeat(99),
    )
    .unwrap();
    let error = SqliteDisk::open(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::Open { path, .. } if *path == SqliteDisk::path(folder.path())), "{error}");
}
