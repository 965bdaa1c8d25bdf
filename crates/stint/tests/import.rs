//! `stint import crontab` as a user meets it: the real program, a real daemon, real containers.

mod support;

use std::fs;
use std::process::Output;

use serde_json::Value;
use stint_core::manifest::{Limits, first_document};
use support::{Daemon, text};

const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";

/// The crontab has every feature; `FOLDER` stands for one that is kept.
const CRONTAB: &str = r#"# m h dom mon dow user command
SHELL=/bin/bash
GREETING = "hello  there"
MAILTO='ops@example.com'
0 3 * * sun,7 root	cat; [[ 1 ]] && echo "$GREETING" $(id -un) \%%one%two \% three
CRON_TZ=Asia/Tokyo
30 4 1 */2 * daemon /usr/bin/id -u; id -g; pwd; echo $HOME $LOGNAME $PATH $0; sleep 0; exit 3
@daily root echo kept > FOLDER/kept; echo gone > /gone
@reboot root modprobe loop
0 0 */2 * 1 root true
* * * * * nobody-at-all true
17~20 * * * * root true
"#;

fn import(daemon: &Daemon, args: &[&str]) -> Output {
    daemon.command(&[&["import", "crontab"], args].concat()).output().unwrap()
}

fn trigger(daemon: &Daemon, name: &str) -> (Option<i32>, String) {
    let output = daemon.command(&["trigger", "--quiet", &format!("cronjob/{name}")]).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn an_imported_crontab_runs_as_cron_would_run_it() {
    let Some(daemon) = Daemon::with_agent() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (file, kept) = (folder.path().join("crontab"), folder.path().to_str().unwrap());
    fs::write(&file, CRONTAB.replace("FOLDER", kept)).unwrap();
    let file = file.to_str().unwrap();
    let output = import(&daemon, &[file, "--system", "--keep", kept, "--tz", "Europe/Berlin"]);
    assert_eq!(output.status.code(), Some(65), "some lines are left out");
    let told = String::from_utf8(output.stderr).unwrap();
    for words in [
        format!("{file}:6: note: the lines below fire by this zone"),
        format!("{file}:9: left out: @reboot runs when the machine starts"),
        format!("{file}:10: left out: cron runs it when day and weekday both fit"),
        format!("{file}:11: left out: there is no user \"nobody-at-all\""),
        format!("{file}:12: left out: its minute \"17~20\" is none"),
        "3 CronJobs, 4 lines left out".to_owned(),
    ] {
        assert!(told.contains(&words), "{words}: {told}");
    }

    let yaml = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> =
        yaml.split("---\n").map(|manifest| first_document(manifest, &Limits::default()).unwrap().0).collect();
    for object in &objects {
        daemon.create(&format!("{CRON_JOBS}?fieldValidation=Strict"), object);
    }
    let shown = |object: &Value| {
        let spec = &object["spec"];
        format!("{} {} {}", object["metadata"]["name"], spec["schedule"], spec["timeZone"])
    };
    let shown: Vec<String> = objects.iter().map(shown).collect();
    assert_eq!(
        shown,
        [
            r#""cat" "0 3 * * 0" "Europe/Berlin""#,
            r#""id" "30 4 1 */2 *" "Asia/Tokyo""#,
            r#""echo-kept" "@daily" "Asia/Tokyo""#
        ]
    );
    assert_eq!(objects[0]["metadata"]["annotations"]["stint.dev/mailto"], "ops@example.com");

    assert_eq!(trigger(&daemon, "cat"), (Some(0), "one\ntwo % three\nhello  there root %\n".to_owned()));
    let expected = "1\n1\n/usr/sbin\n/usr/sbin daemon /usr/bin:/bin /bin/bash\n".to_owned();
    assert_eq!(trigger(&daemon, "id"), (Some(3), expected), "the exit code is the command's");
    assert_eq!(trigger(&daemon, "echo-kept"), (Some(0), String::new()));
    assert_eq!(fs::read_to_string(folder.path().join("kept")).unwrap(), "kept\n");
    assert!(!fs::exists("/gone").unwrap(), "what is written elsewhere is thrown away");
}

#[test]
fn imported_cron_jobs_can_be_run_by_hand_with_the_hosts_root_only() {
    let daemon = Daemon::folder();
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("crontab"), folder.path().join("out"));
    fs::write(&file, "@daily echo once; exit 5\n").unwrap();
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    let output = import(&daemon, &[file, "--user", "root", "--output", out]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]), "{}", text(&output));
    let manifest = format!("{out}/echo-once.yaml");

    let refused = daemon.command(&["run", &manifest]).output().unwrap();
    assert_eq!(refused.status.code(), Some(65), "{}", text(&refused));
    assert!(text(&refused).contains("Job \"echo-once\": its pods ask for this machine's root filesystem"));
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: containers need root");
    }
    let ended = daemon.command(&["run", "--host", "--quiet", &manifest]).output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(5), &b"once\n"[..]), "{}", text(&ended));
}
