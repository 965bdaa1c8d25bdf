//! Stint: Kubernetes Jobs and CronJobs without the cluster.
//!
//! This crate only wires: arguments in, one command run, an exit code out. It is a library beside the program so that the
//! benchmarks measure the same wiring.

pub mod args;
pub mod client;
pub mod config;
pub mod controllers;
pub mod embedded;
pub mod exit;
pub mod explain;
pub mod export;
pub mod folder;
pub mod image;
pub mod import;
pub mod install;
pub mod kubeconfig;
pub mod lint;
pub mod process;
pub mod real;
pub mod remote;
pub mod rootless;
pub mod run;
pub mod schedule;
pub mod serve;
pub mod settings;
pub mod trigger;
pub mod zones;

use std::process::ExitCode;

/// Does what the command line says.
pub fn main() -> ExitCode {
    let args = match args::parse() {
        Ok(args) => args,
        Err(exit) => return exit.into(),
    };
    // Those that stay say how they log.
    if !matches!(args.command, args::Command::Serve(_) | args::Command::Controllers(_)) {
        real::log_to_stderr(args.verbose);
    }
    exit::report(match &args.command {
        args::Command::Serve(flags) => serve::main(flags),
        args::Command::Controllers(controllers) => controllers::main(controllers),
        args::Command::Config(flags) => config::main(flags),
        args::Command::Install(install) => install::install(&args.data, install),
        args::Command::Uninstall => install::uninstall(),
        args::Command::Kubeconfig(kubeconfig) => kubeconfig::main(&args.data, kubeconfig),
        args::Command::Schedule(schedule) => schedule::main(&args.data, schedule),
        args::Command::Explain(explain) => explain::main(&args.data, explain),
        args::Command::Export(export) => export::main(&args.data, export),
        args::Command::Lint(lint) => lint::main(lint),
        args::Command::Trigger(trigger) => trigger::main(&args.data, trigger),
        args::Command::Run(run) => run::main(&args.data, run),
        args::Command::Import(args::ImportCommand::Crontab(crontab)) => import::main(crontab),
        args::Command::Image(image) => image::main(&args.data, image),
    })
}
