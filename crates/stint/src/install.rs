//! `stint install` and `stint uninstall`: the daemon as a service of systemd.
//!
//! Invariant: what `--print` shows is what is written. Containers are not systemd's to end: stopping the service ends the
//! daemon alone.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::args::InstallArgs;
use crate::exit::Exit;
use crate::folder;

/// The service's unit.
const SERVICE: &str = "stint.service";
/// The unit of its unix socket.
const SOCKET: &str = "stint.socket";
/// Where an administrator's units are.
const FOLDER: &str = "/etc/systemd/system";

/// Writes the units and starts the service, or prints them.
pub fn install(data: &Path, args: &InstallArgs) -> anyhow::Result<Exit> {
    let program = std::env::current_exe().context("can't find out where this program is")?;
    let units = units(&program, data)?;
    if args.print {
        let mut stdout = io::stdout().lock();
        for (name, text) in units {
            writeln!(stdout, "# {FOLDER}/{name}\n{text}").context("can't print")?;
        }
        return Ok(Exit::Done);
    }
    needs_systemd("install")?;
    for (name, text) in units {
        let path = Path::new(FOLDER).join(name);
        fs::write(&path, text).with_context(|| format!("can't write {}; run as root", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", SOCKET, SERVICE])?;
    eprintln!("stint is running; `stint kubeconfig --merge` lets kubectl find it");
    Ok(Exit::Done)
}

/// Stops the service and removes its units; data and containers stay.
pub fn uninstall() -> anyhow::Result<Exit> {
    needs_systemd("uninstall")?;
    systemctl(&["disable", "--now", SERVICE, SOCKET])?;
    for name in [SERVICE, SOCKET] {
        let path = Path::new(FOLDER).join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("can't remove {}; run as root", path.display()));
            }
            _ => {}
        }
    }
    systemctl(&["daemon-reload"])?;
    eprintln!("removed the service; its data, and containers that still run, are left");
    Ok(Exit::Done)
}

/// Name and text of each unit.
fn units(program: &Path, data: &Path) -> anyhow::Result<[(&'static str, String); 2]> {
    let data = std::path::absolute(data).with_context(|| format!("{:?} is no path", data.display()))?;
    let socket = folder::socket(&data);
    let usual = data == folder::default_data();
    let option = if usual { String::new() } else { format!(" --data {}", quoted(&data)?) };
    let service = format!(
        "[Unit]
Description=Stint, Kubernetes Jobs without the cluster
Documentation=man:systemd.service(5)
After=network-online.target local-fs.target
Wants=network-online.target

[Service]
Type=notify-reload
NotifyAccess=main
ExecStart={program}{option} serve
Restart=on-failure
RestartSec=1
# Only the daemon is stopped; containers go on, and the next daemon takes them over.
KillMode=process
TimeoutStopSec=60
# The daemon makes cgroups for its pods.
Delegate=yes
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
",
        program = quoted(program)?,
    );
    let socket = format!(
        "[Unit]
Description=Local clients of Stint

[Socket]
ListenStream={socket}
SocketMode={mode}
Service={SERVICE}

[Install]
WantedBy=sockets.target
",
        socket = specifiers(&socket)?,
        mode = if usual { "0666" } else { "0600" },
    );
    Ok([(SERVICE, service), (SOCKET, socket)])
}

/// A path as one word of a command line in a unit (systemd.syntax(7)).
fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = specifiers(path)?.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-%".contains(&b));
    Ok(if plain { text } else { format!("\"{text}\"") })
}

/// A path with systemd's specifiers escaped.
fn specifiers(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| !text.contains(char::is_control));
    let text = text.with_context(|| format!("{:?} can't stand in a unit", path.display()))?;
    Ok(text.replace('%', "%%"))
}

fn needs_systemd(what: &str) -> anyhow::Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        bail!(
            "can't {what}: systemd does not run this machine; start `stint serve` with what does (--print shows the units)"
        );
    }
    Ok(())
}

fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    let command = PathBuf::from("systemctl");
    let status = Command::new(&command).args(args).status().context("can't run systemctl")?;
    if !status.success() {
        bail!("systemctl {} failed ({status}); what it said is above", args.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_in_units_whatever_is_in_them() {
        let [(_, service), (_, socket)] = units(Path::new("/usr/bin/stint"), Path::new("/srv/my data/100%")).unwrap();
        assert!(service.contains("ExecStart=/usr/bin/stint --data \"/srv/my data/100%%\" serve\n"), "{service}");
        assert!(socket.contains("ListenStream=/srv/my data/100%%/stint.sock\nSocketMode=0600\n"), "{socket}");
        assert!(units(Path::new("/usr/bin/stint"), Path::new("/a\nExecStart=/bin/sh")).is_err());
        assert_eq!(quoted(Path::new("/a$b\"c")).unwrap(), "\"/a$$b\\\"c\"");
    }
}
