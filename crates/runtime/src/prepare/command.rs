//! A command for a running container: what is on record for the container, with another program at its end.
//!
//! Invariant: the steps that confine come from the record that the container was started by, never from the caller; the
//! caller says what is executed, with which environment, where, and with which streams.

use std::ffi::CString;
use std::path::Path;

use super::{Refusal, Result, c_path, c_string, invalid};
use crate::exec::{ProcessSpec, Stdio};
use crate::plan::{Command, Confinement, Step};
use crate::{ContainerId, Error, ExecError, record};

/// A terminal's type where the environment names none.
const TERM: &str = "TERM=xterm";

/// For our own helper.
pub(crate) fn native(id: &ContainerId, dir: &Path, process: &ProcessSpec) -> std::result::Result<Command, ExecError> {
    let found = record::read::<Confinement<Step>>(Some(id), dir, record::PROCESS).map_err(|error| {
        let step = format!("read how it is confined from {}", dir.join(record::PROCESS).display());
        let source = match error {
            Error::Failed { source, .. } => source,
            error => std::io::Error::other(error),
        };
        ExecError::Failed { container: id.clone(), step, source }
    })?;
    let Some(Confinement { steps }) = found else { return Err(ExecError::NotRunning(id.clone())) };
    assemble(steps, process).map_err(|refusal| of(refusal, id))
}

/// For a runc-compatible program.
pub(crate) fn program(
    id: &ContainerId,
    dir: &Path,
    program: &Path,
    process: &ProcessSpec,
) -> std::result::Result<Command, ExecError> {
    arguments(id, dir, program, process).map_err(|refusal| of(refusal, id))
}

fn of(refusal: Refusal, id: &ContainerId) -> ExecError {
    let (Refusal::Invalid(fault) | Refusal::Unsupported(fault, _)) = refusal;
    ExecError::Invalid { container: id.clone(), fault }
}

fn assemble(mut steps: Vec<Step>, process: &ProcessSpec) -> Result<Command> {
    let args = args(process)?;
    let terminal = process.stdio == Stdio::Terminal;
    let mut replaced = false;
    for step in &mut steps {
        match step {
            Step::Cwd(path) => {
                if let Some(cwd) = &process.cwd {
                    *path = c_path(cwd, "the working directory")?;
                }
            }
            Step::Exec(program, env) => {
                program.clone_from(&args);
                environment(env, process)?;
                replaced = true;
            }
            _ => {}
        }
    }
    if !replaced {
        return invalid("the container's record has no program to execute");
    }
    Ok(Command::Native { steps, terminal })
}

fn args(process: &ProcessSpec) -> Result<Vec<CString>> {
    if process.args.first().is_none_or(String::is_empty) {
        return invalid("it has no program to execute");
    }
    process.args.iter().map(|arg| c_string(arg, "an argument")).collect()
}

fn environment(env: &mut Vec<CString>, process: &ProcessSpec) -> Result<()> {
    for entry in &process.env {
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return invalid(format!("the environment has {entry:?}, which is not NAME=value"));
        };
        env.retain(|old| name_of(old.to_bytes()) != name.as_bytes());
        env.push(c_string(entry, "the environment")?);
    }
    if process.stdio == Stdio::Terminal && !env.iter().any(|entry| name_of(entry.to_bytes()) == b"TERM") {
        env.push(c_string(TERM, "the environment")?);
    }
    Ok(())
}

fn name_of(entry: &[u8]) -> &[u8] {
    entry.split(|byte| *byte == b'=').next().unwrap_or_default()
}

fn arguments(id: &ContainerId, dir: &Path, program: &Path, process: &ProcessSpec) -> Result<Command> {
    let terminal = process.stdio == Stdio::Terminal;
    let mut all = Vec::new();
    let mut env = Vec::new();
    environment(&mut env, process)?;
    for entry in env {
        all.extend([c"--env".to_owned(), entry]);
    }
    if let Some(cwd) = &process.cwd {
        all.extend([c"--cwd".to_owned(), c_path(cwd, "the working directory")?]);
    }
    all.push(c_string(id.as_str(), "the container's name")?);
    all.extend(args(process)?);
    Ok(Command::Program {
        program: c_path(program, "the program's path")?,
        args: all,
        dir: c_path(dir, "dir")?,
        terminal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Capabilities;

    fn steps() -> Vec<Step> {
        vec![
            Step::Cwd(c"/".into()),
            Step::NoNewPrivileges,
            Step::Become(1, 2, Some(vec![3]), None, Capabilities::default()),
            Step::Exec(vec![c"sleep".into()], vec![c"A=1".into(), c"B=2".into()]),
        ]
    }

    fn assembled(process: &ProcessSpec) -> Vec<String> {
        match assemble(steps(), process).unwrap() {
            Command::Native { steps, .. } => steps.iter().map(|step| format!("{step:?}")).collect(),
            other @ Command::Program { .. } => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_executed_and_where_is_the_callers() {
        let process = ProcessSpec {
            args: vec!["ls".into(), "-l".into()],
            env: vec!["A=9".into(), "C=3".into()],
            cwd: Some("/tmp".into()),
            stdio: Stdio::Terminal,
        };
        assert_eq!(
            assembled(&process),
            [
                r#"Cwd("/tmp")"#,
                "NoNewPrivileges",
                "Become(1, 2, Some([3]), None, Capabilities { bounding: 0, effective: 0, permitted: 0, inheritable: 0, ambient: 0 })",
                r#"Exec(["ls", "-l"], ["B=2", "A=9", "C=3", "TERM=xterm"])"#,
            ]
        );
        let plain = ProcessSpec { args: vec!["ls".into()], ..ProcessSpec::default() };
        let all = assembled(&plain);
        assert_eq!(all[0], r#"Cwd("/")"#);
        assert_eq!(all[3], r#"Exec(["ls"], ["A=1", "B=2"])"#);
    }

    #[test]
    fn commands_without_sense_are_refused() {
        for (args, env) in [
            (vec![], vec![]),
            (vec![String::new()], vec![]),
            (vec!["a\0b".into()], vec![]),
            (vec!["a".into()], vec!["x".to_owned()]),
        ] {
            let process = ProcessSpec { args, env, ..ProcessSpec::default() };
            assert!(assemble(steps(), &process).is_err(), "{process:?}");
        }
    }
}
