//! What the process ends with, and what a user is told when something failed.

use std::process::ExitCode;

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for was done.
    Done,
    /// A Job failed: the exit code of the last container that failed, 1 when there is none.
    JobFailed(u8),
    /// The command line is wrong (`EX_USAGE`).
    Usage,
    /// A manifest is not valid (`EX_DATAERR`).
    Data,
    /// `--timeout` was over, as with coreutils' `timeout`.
    Timeout,
    /// Ended by Ctrl-C or SIGTERM, everything cleaned up.
    Interrupted,
    /// Something else went wrong.
    Failed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::JobFailed(code) => code.max(1),
            Exit::Failed => 1,
            Exit::Usage => 64,
            Exit::Data => 65,
            Exit::Timeout => 124,
            Exit::Interrupted => 130,
        })
    }
}

/// Turns a command's result into an exit code; an error is told on stderr with everything that led to it.
pub fn report(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("stint: {error:#}");
            Exit::Failed.into()
        }
    }
}
