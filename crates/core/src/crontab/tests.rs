use k8s_openapi::api::batch::v1::CronJob;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::manifest::{Document, parse};
use crate::{defaults, validate};

fn account(name: &str) -> Option<Account> {
    let account = |uid: u32, groups: &[u32], home: &str| {
        Some(Account { name: name.to_owned(), uid, gid: uid, groups: groups.to_vec(), home: home.to_owned() })
    };
    match name {
        "root" => account(0, &[], "/root"),
        "paul" => account(1000, &[4, 27], "/home/paul"),
        _ => None,
    }
}

fn import_of(owner: Owner<'_>, text: &[u8], keep: &[String]) -> Import {
    let now = "2026-06-01T00:00:00Z".parse().unwrap();
    let machine = Machine { zone: Some("Europe/Berlin"), account: &account, now };
    let crontab = Crontab { origin: "tab", text, owner };
    import(&[crontab], &machine, &Wishes { image: "debian:stable-slim", keep })
}

fn of_paul(text: &str) -> Import {
    import_of(Owner::User("paul"), text.as_bytes(), &[])
}

fn told(import: &Import) -> Vec<String> {
    import.remarks.iter().map(ToString::to_string).collect()
}

fn container(imported: &Imported) -> &Value {
    &imported.object["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
}

/// What the API server says about the manifests.
fn faults(import: &Import) -> Vec<String> {
    let yaml: Vec<String> = import.cron_jobs.iter().map(Imported::yaml).collect();
    let documents = parse(&yaml.join("---\n"), "import").unwrap_or_else(|why| panic!("{why}\n{yaml:?}"));
    assert_eq!(documents.len(), import.cron_jobs.len());
    let check = |document: &Document| {
        let Document::CronJob(cron_job) = document else { panic!("{document:?}") };
        let mut cron_job: CronJob = (**cron_job).clone();
        cron_job.metadata.namespace = Some("default".to_owned());
        defaults::cron_job(&mut cron_job);
        validate::cron_job_create(&cron_job).into_iter().map(|fault| fault.to_string()).collect::<Vec<_>>()
    };
    documents.iter().flat_map(check).collect()
}

#[test]
fn a_line_becomes_a_cron_job_that_does_the_same() {
    let text = "SHELL=/bin/bash\nMAILTO=joe\n\n# a comment\n5 0 * * 7  $HOME/bin/daily.job $(date +\\%F)\n";
    let import = of_paul(text);
    assert_eq!(told(&import), [""; 0]);
    let yaml = "\
# tab:5: 5 0 * * 7  $HOME/bin/daily.job $(date +\\%F)
apiVersion: batch/v1
kind: CronJob
metadata:
  annotations:
    stint.dev/mailto: joe
  labels:
    stint.dev/imported-from: crontab
  name: daily-job
spec:
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        metadata:
          annotations:
            stint.dev/rootfs: host
        spec:
          automountServiceAccountToken: false
          containers:
          - args:
            - $HOME/bin/daily.job $$(date +%F)
            command:
            - /bin/bash
            - \"-c\"
            env:
            - name: SHELL
              value: /bin/bash
            - name: HOME
              value: /home/paul
            - name: PATH
              value: /usr/bin:/bin
            - name: LOGNAME
              value: paul
            - name: MAILTO
              value: joe
            image: debian:stable-slim
            name: command
            workingDir: /home/paul
          hostNetwork: true
          restartPolicy: Never
          securityContext:
            runAsGroup: 1000
            runAsUser: 1000
            supplementalGroups:
            - 4
            - 27
  schedule: 5 0 * * 0
  startingDeadlineSeconds: 60
  timeZone: Europe/Berlin
";
    assert_eq!(import.cron_jobs[0].yaml(), yaml);
    assert_eq!(faults(&import), [""; 0]);
}

#[test]
fn settings_hold_for_the_lines_below_them() {
    let import = of_paul("@daily a\nX=1\nHOME=/srv\nLOGNAME=joe\n@daily b\nX=2\nCRON_TZ=Asia/Tokyo\n@daily c\n");
    let env = |at: usize| {
        let all = container(&import.cron_jobs[at])["env"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.iter().map(|one| format!("{}={}", text(&one["name"]), text(&one["value"]))).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(env(0), "SHELL=/bin/sh HOME=/home/paul PATH=/usr/bin:/bin LOGNAME=paul");
    assert_eq!(env(1), "SHELL=/bin/sh HOME=/srv PATH=/usr/bin:/bin LOGNAME=paul X=1");
    assert_eq!(env(2), "SHELL=/bin/sh HOME=/srv PATH=/usr/bin:/bin LOGNAME=paul X=2 CRON_TZ=Asia/Tokyo");
    assert_eq!(container(&import.cron_jobs[2])["workingDir"], "/srv");
    let zones: Vec<&Value> = import.cron_jobs.iter().map(|job| &job.object["spec"]["timeZone"]).collect();
    assert_eq!(zones, ["Europe/Berlin", "Europe/Berlin", "Asia/Tokyo"]);
}

#[test]
fn input_is_piped_into_the_shell() {
    let import = of_paul("0 22 * * 1-5\tmail -s \"It's 10pm\" joe%Joe,%%Where are your $(kids)?%\n");
    let container = container(&import.cron_jobs[0]);
    let stdin = "Joe,\n\nWhere are your $$(kids)?\n";
    let command = json!(["/bin/sh", "-c", "printf %s \"$0\" | \"$@\"", stdin, "/bin/sh", "-c"]);
    assert_eq!(container["command"], command);
    assert_eq!(container["args"], json!(["mail -s \"It's 10pm\" joe"]));
    assert_eq!(faults(&import), [""; 0]);
}

#[test]
fn system_crontabs_name_their_users() {
    let text = "1 4 * * *\troot\tcd / && run-parts /etc/cron.daily\n@hourly paul true\n* * * * * joe x\n* * * * *\n@daily root\n";
    let import = import_of(Owner::Column, text.as_bytes(), &["/var/backups".to_owned()]);
    let names: Vec<&str> = import.cron_jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["run-parts-cron-daily", "true"]);
    let pod = &import.cron_jobs[0].object["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"], json!({ "runAsUser": 0, "runAsGroup": 0 }));
    assert_eq!(pod["volumes"], json!([{ "name": "keep-1", "hostPath": { "path": "/var/backups" } }]));
    assert_eq!(pod["containers"][0]["volumeMounts"], json!([{ "name": "keep-1", "mountPath": "/var/backups" }]));
    assert_eq!(faults(&import), [""; 0]);
    let told = told(&import);
    assert!(told[0].starts_with("tab:3: left out: there is no user \"joe\""), "{told:?}");
    assert!(told[1].starts_with("tab:4: left out: its user is missing"), "{told:?}");
    assert!(told[2].starts_with("tab:5: left out: its command is missing"), "{told:?}");
    assert_eq!(told.len(), 3);
}

#[test]
fn what_is_left_out_is_told_with_its_line() {
    let text = b"@reboot x\nA=\n* * * * * * x\n\xff\n0 0 * * *\nCRON_TZ=Mars/Base\n@daily y\n* * * * * z";
    let import = import_of(Owner::User("paul"), text, &[]);
    let told = told(&import);
    for (at, words) in [
        "tab:1: left out: @reboot runs when the machine starts",
        "tab:2: left out: `A=` sets nothing",
        "tab:3: left out: its command begins with `*`",
        "tab:4: left out: it is not UTF-8",
        "tab:5: left out: its command is missing",
        "tab:6: note: the lines below fire by this zone",
        "tab:7: left out: there is no time zone \"Mars/Base\"",
        "tab:8: note: cron does not read a last line",
        "tab:8: left out: there is no time zone",
    ]
    .iter()
    .enumerate()
    {
        assert!(told[at].starts_with(words), "{told:#?}");
    }
    assert_eq!((told.len(), import.cron_jobs.len()), (9, 0));
}

#[test]
fn changes_of_the_clock_that_cron_saves_from_are_told() {
    let import = of_paul("30 2 * * * a\n0 4 * * * b\n*/5 2 * * * c\n@daily d\n");
    assert_eq!(
        told(&import),
        [
            "tab:1: note: on 2026-10-25 the clocks repeat 02:00 to 03:00: cron runs it once, a CronJob twice; another \
             hour avoids that",
            "tab:1: note: on 2027-03-28 the clocks skip 02:00 to 03:00: cron runs it right after, a CronJob not at all; \
             another hour avoids that",
        ]
    );
    assert_eq!(import.cron_jobs.len(), 4);
}

#[test]
fn carriage_returns_are_no_part_of_commands() {
    let import = of_paul("A=1\r\n@daily x\r\n\r\n");
    assert_eq!(container(&import.cron_jobs[0])["args"], json!(["x"]));
    assert!(told(&import)[0].starts_with("tab:1: note: lines end with a carriage return"));
    assert_eq!(import.remarks.len(), 1);
}

proptest! {
    #[test]
    fn every_text_is_imported_or_told_and_what_comes_out_is_valid(
        lines in proptest::collection::vec(
            (
                prop_oneof![
                    Just("* * * * * "), Just("@daily "), Just("0 3 1 jan 7 "), Just("A="), Just("MAILTO = "), Just("'"), Just(""),
                ],
                prop_oneof!["\\PC{0,30}", "[ -~\\t\\r]{0,30}", "(root|paul) [a-z%\\\\$()\"']{0,20}", ".{0,20}"],
            ),
            0..8,
        ),
        column in any::<bool>(),
    ) {
        let text: String = lines.iter().flat_map(|(start, rest)| [*start, rest, "\n"]).collect();
        let owner = if column { Owner::Column } else { Owner::User("root") };
        let import = import_of(owner, text.as_bytes(), &[]);
        prop_assert_eq!(faults(&import), [""; 0]);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let import = import_of(Owner::User("root"), &bytes, &[]);
        prop_assert_eq!(faults(&import), [""; 0]);
    }
}
