//! The disk of a durable store: one SQLite file in WAL mode, synced at every commit.
//!
//! SQLite is used as a log with an index: the store reads it once, from end to end, and from then on only writes.
//! The connection holds the file's exclusive lock, so two processes can't both believe that they are the writer, and
//! the lock goes with the process, however that ends.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, params};

use crate::{Change, Disk, DiskError, Entry, Error, Loaded, Revision};

/// The data file's name in its folder.
const FILE: &str = "store.sqlite";

/// The format that this version writes, kept in the file's `user_version`.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE objects (
        key TEXT NOT NULL PRIMARY KEY,
        revision INTEGER NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    -- One row: the revision of the last commit, which a deletion advances too.
    CREATE TABLE store (revision INTEGER NOT NULL) STRICT;
    INSERT INTO store VALUES (0);
    PRAGMA user_version = 1;
";

const PUT: &str = "
    INSERT INTO objects (key, revision, value) VALUES (?1, ?2, ?3)
    ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, value = excluded.value
";

const DELETE: &str = "DELETE FROM objects WHERE key = ?1";

/// Keeps objects in a SQLite file.
#[derive(Debug)]
pub struct SqliteDisk {
    connection: Connection,
}

impl SqliteDisk {
    /// Opens the data file in a folder, and makes both when they are missing, readable by this user only.
    ///
    /// [`Error::InUse`] when another store has it open, here or in another process.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let failed = |source: DiskError| Error::Open { path: path.clone(), source: Arc::from(source) };
        create(folder, &path).map_err(|error| failed(error.into()))?;
        let connection = connect(&path).map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::InUse { folder: folder.to_owned() },
            _ => failed(error.into()),
        })?;
        match format(&connection).map_err(|error| failed(error.into()))? {
            FORMAT => Ok(Self { connection }),
            found => Err(Error::NewerFormat { path, found, known: FORMAT }),
        }
    }

    /// The data file in a folder.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }
}

impl Disk for SqliteDisk {
    fn load(&mut self) -> Result<Loaded, DiskError> {
        // In the file's order, which reads it from end to end; sorting the keys afterwards costs less than seeking.
        let mut statement = self.connection.prepare("SELECT key, revision, value FROM objects NOT INDEXED")?;
        let mut rows = statement.query([])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(Entry {
                key: row.get_ref(0)?.as_str()?.into(),
                revision: from_sql(row.get(1)?)?,
                value: Bytes::copy_from_slice(row.get_ref(2)?.as_blob()?),
            });
        }
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let revision = self.connection.query_row("SELECT revision FROM store", [], |row| row.get(0))?;
        Ok(Loaded { revision: from_sql(revision)?, entries })
    }

    fn commit(&mut self, batch: &[Change], revision: Revision) -> Result<(), DiskError> {
        let transaction = self.connection.transaction()?;
        {
            let (mut put, mut delete) = (None, None);
            for change in batch {
                let rows = match change {
                    Change::Put(entry) => {
                        let put = prepared(&transaction, &mut put, PUT)?;
                        put.execute(params![&*entry.key, to_sql(entry.revision)?, &*entry.value])?
                    }
                    Change::Delete { key, .. } => prepared(&transaction, &mut delete, DELETE)?.execute([&**key])?,
                };
                if rows != 1 {
                    return Err(format!("the data file and the store disagree about {}", change.key()).into());
                }
            }
            transaction.execute("UPDATE store SET revision = ?1", [to_sql(revision)?])?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// A statement that is prepared when it is first needed: most batches delete nothing.
fn prepared<'statement, 'connection>(
    connection: &'connection Connection,
    statement: &'statement mut Option<Statement<'connection>>,
    sql: &str,
) -> rusqlite::Result<&'statement mut Statement<'connection>> {
    match statement {
        Some(prepared) => Ok(prepared),
        None => Ok(statement.insert(connection.prepare(sql)?)),
    }
}

/// Makes the folder and an empty file, both private: the objects in it may be Secrets.
fn create(folder: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // An existing file is not opened: closing it again would drop the lock of a store that has it open here.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Connects, and takes the exclusive lock for as long as the connection lives.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::ZERO)?;
    // The lock has to be asked for before the first access: then the WAL's index is in our memory, not in a file.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
    Ok(connection)
}

/// The file's format. A new file gets ours first.
fn format(connection: &Connection) -> rusqlite::Result<i64> {
    let read = || connection.pragma_query_value(None, "user_version", |row| row.get(0));
    if read()? == 0 {
        connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT"))?;
    }
    read()
}

fn to_sql(revision: Revision) -> Result<i64, DiskError> {
    Ok(i64::try_from(revision.0)?)
}

fn from_sql(number: i64) -> Result<Revision, DiskError> {
    Ok(Revision(u64::try_from(number)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A killed process does not show whether commits are synced: only a machine that loses power would.
    #[test]
    fn commits_are_synced() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SqliteDisk::open(folder.path()).unwrap();
        let pragma = |name: &str| -> String {
            let read = |row: &rusqlite::Row<'_>| {
                row.get::<_, i64>(0).map(|number| number.to_string()).or_else(|_| row.get::<_, String>(0))
            };
            disk.connection.pragma_query_value(None, name, read).unwrap()
        };
        assert_eq!(pragma("journal_mode"), "wal");
        assert_eq!(pragma("synchronous"), "2", "FULL: the log is synced at every commit");
        assert_eq!(pragma("locking_mode"), "exclusive");
    }
}
