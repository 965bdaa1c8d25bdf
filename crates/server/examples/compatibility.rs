//! Writes `docs/compatibility.md` to standard output, from the tables of kinds and of a pod's fields, and the list of
//! differences:
//!
//! ```text
//! cargo run -p stint-server --example compatibility > docs/compatibility.md
//! ```

use std::fmt::Write;

use stint_core::validate::unhonoured;
use stint_server::differences::fields::{Here, Tests, types};
use stint_server::differences::{ABSENT, DIFFERENCES};
use stint_server::kinds::{Holds, KINDS, Kind, Scope};

const HEAD: &str = "\
# What of the Kubernetes API is served

<!-- Made by `cargo run -p stint-server --example compatibility > docs/compatibility.md`; a test asserts that it is current. -->

`stint serve` answers as Kubernetes 1.36 does, for Jobs, CronJobs and what goes with them. Tokens, reviews of
access and who may do what have a page of their own: [access.md](access.md).

## Kinds that hold objects
";

const READABLE: &str = "
## Kinds that can be read and are empty

Nothing here reconciles these. A Deployment that is accepted and never runs would be a lie. So `get`, `list` and `watch`
answer, for the tools that look, and every write is refused with 405.

| kind | resource | API version | scope |
|---|---|---|---|
";

const ABSENT_HEAD: &str = "
## Subresources that are refused

With 404 and the reason.

| subresource | why |
|---|---|
";

const FIELDS_HEAD: &str = "
## Fields of pods

What becomes of each field of a pod's spec, by the types of the API. A field without a table of its own is done with all
that is in it. *Warned* fields are accepted, and whoever creates the pod, or a Job or CronJob that makes such pods, is told in
a warning what happens instead.
";

const DIFFERENCES_HEAD: &str = "
## Other deliberate differences

| what | here | why |
|---|---|---|
";

fn main() {
    print!("{}", page());
}

/// The whole page.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    let holding = |kind: &&Kind| kind.holds == Holds::Objects;
    let verbs = KINDS.iter().filter(holding).map(Kind::verbs).max_by_key(|verbs| verbs.len()).unwrap_or_default();
    let line = format!("Verbs: {}; the last column says where one is missing.", verbs.join(", "));
    write!(
        page,
        "\n{line}\n\n| kind | resource | API version | scope | subresources | but not |\n|---|---|---|---|---|---|\n"
    )
    .expect("a string takes everything");
    for kind in KINDS.iter().filter(holding) {
        let missing = verbs.iter().filter(|verb| !kind.verbs().contains(verb)).copied();
        let behind = kind.subresources.iter().map(|subresource| subresource.segment());
        add(&mut page, &[row(kind), list(behind), list(missing)]);
    }
    page.push_str(READABLE);
    for kind in KINDS.iter().filter(|kind| kind.holds == Holds::Nothing) {
        add(&mut page, &[row(kind)]);
    }
    page.push_str(ABSENT_HEAD);
    for absent in ABSENT {
        add(&mut page, &[format!("`{}/{}`", absent.plural, absent.segment), absent.why.to_owned()]);
    }
    page.push_str(FIELDS_HEAD);
    for of in types() {
        write!(page, "\n### {}\n\n| field | here | shown by |\n|---|---|---|\n", of.name)
            .expect("a string takes everything");
        for field in of.fields {
            let (here, tests) = told(of.name, field.name, &field.here);
            add(&mut page, &[format!("`{}`", field.name), here, links(tests)]);
        }
    }
    page.push_str(DIFFERENCES_HEAD);
    for difference in DIFFERENCES {
        add(&mut page, &[difference.what, difference.here, difference.why].map(str::to_owned));
    }
    page
}

/// What a row says, with the words of its warning, and which tests show it.
fn told(of: &str, field: &str, here: &Here) -> (String, Tests) {
    let name = format!("{of}.{field}");
    let warning = unhonoured::fields().find(|(field, _)| *field == name).map(|(_, instead)| instead);
    let with = |word: &str, how: &str| if how.is_empty() { word.to_owned() } else { format!("{word}: {how}") };
    match here {
        Here::Yes { how, tests } => (with("yes", how), tests),
        Here::Partly { how, tests } => {
            let rest = warning.map(|instead| format!(" (*warned*: {instead})"));
            (with("partly", how) + &rest.unwrap_or_default(), tests)
        }
        Here::Warned => (with("*warned*", warning.unwrap_or_default()), &[]),
        Here::Moot(why) => (with("no effect", why), &[]),
    }
}

fn links(tests: Tests) -> String {
    tests.iter().map(|(file, test)| format!("[{test}](../{file})")).collect::<Vec<_>>().join("<br>")
}

fn row(kind: &Kind) -> String {
    let scope = match kind.scope {
        Scope::Namespaced => "namespace",
        Scope::Cluster => "cluster",
    };
    format!("{} | `{}` | {} | {scope}", kind.kind, kind.plural, kind.api_version)
}

fn list(words: impl Iterator<Item = &'static str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn add(page: &mut String, cells: &[String]) {
    writeln!(page, "| {} |", cells.join(" | ")).expect("a string takes everything");
}
