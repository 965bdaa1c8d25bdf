//! Stint: Kubernetes Jobs and CronJobs without the cluster.
//!
//! This crate only wires: arguments in, one command run, an exit code out. It is a library beside the program so that the
//! benchmarks measure the same wiring.

pub mod args;
pub mod embedded;
pub mod exit;
pub mod folder;
pub mod image;
pub mod real;
pub mod run;

use std::process::ExitCode;

/// Does what the command line says.
pub fn main() -> ExitCode {
    let args = match args::parse() {
        Ok(args) => args,
        Err(exit) => return exit.into(),
    };
    real::log_to_stderr(args.verbose);
    exit::report(match &args.command {
        args::Command::Run(run) => run::main(&args.data, run),
        args::Command::Image(image) => image::main(&args.data, image),
    })
}
