//! The daemon's own authority, and the certificates that it makes: one to serve with and one for the administrator.
//!
//! ```text
//! DATA/pki/ca.crt, ca.key          ten years; made anew for the same key when two are left
//! DATA/pki/server.crt, server.key  a year; made anew when a third of it is left, or when its names change
//! DATA/pki/admin.crt, admin.key    likewise; user stint-admin in group system:masters
//! ```
//!
//! Invariant: a file is replaced as a whole, and a certificate is never newer than its key. A certificate that was
//! handed out stays good after the authority's is made anew, since the authority's key stays.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::folder::write_private;

/// The group that may do everything.
const ADMINISTRATORS: &str = "system:masters";
/// The user of the administrator's certificate.
const ADMINISTRATOR: &str = "stint-admin";

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// What the folder holds.
#[derive(Clone)]
pub struct Pki {
    /// The authority's certificate, in PEM.
    pub ca: String,
    /// What to serve with.
    pub server: Pair,
    /// What the administrator's clients show.
    pub admin: Pair,
    /// Whether any of them was made just now.
    pub changed: bool,
}

impl Pki {
    /// Reads what `data` has, and makes what is missing, due, or not good for these names.
    pub fn ensure(data: &Path, names: &BTreeSet<String>, now: Timestamp) -> anyhow::Result<Pki> {
        let folder = data.join("pki");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("can't make {}", folder.display()))?;
        let (authority, ca, ca_made) = authority(&folder, now)?;
        let server = Wanted { name: "server", subject: subject("stint", None), names, client: false };
        let none = BTreeSet::new();
        let administrator = subject(ADMINISTRATOR, Some(ADMINISTRATORS));
        let admin = Wanted { name: "admin", subject: administrator, names: &none, client: true };
        let (server, server_made) = server.ensure(&folder, &authority, now)?;
        let (admin, admin_made) = admin.ensure(&folder, &authority, now)?;
        Ok(Pki { ca, server, admin, changed: ca_made || server_made || admin_made })
    }
}

/// What a server on this machine answers to, beside the names that are asked for.
pub fn names(more: &[String], addresses: impl IntoIterator<Item = IpAddr>) -> BTreeSet<String> {
    let usual = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", "::1"];
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let specific = addresses.into_iter().filter(|address| !address.is_unspecified()).map(|a| a.to_string());
    let all = usual.map(str::to_owned).into_iter().chain([host]).chain(specific).chain(more.iter().cloned());
    all.filter(|name| !name.is_empty()).collect()
}

/// The authority with its certificate, and whether that was made now.
fn authority(folder: &Path, now: Timestamp) -> anyhow::Result<(Issuer<'static, KeyPair>, String, bool)> {
    let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    let read_key = || -> anyhow::Result<Option<KeyPair>> {
        let Some(text) = read(&key)? else { return Ok(None) };
        let pair = KeyPair::from_pem(&text).with_context(|| format!("{} holds no private key", key.display()))?;
        Ok(Some(pair))
    };
    let kept = read_key()?;
    let text = read(&certificate)?;
    if let (Some(_), Some(text)) = (&kept, &text)
        && facts(text).is_some_and(|facts| facts.until > now + SignedDuration::from_hours(2 * 365 * 24))
    {
        let issuer = Issuer::from_ca_cert_pem(text, kept.expect("just matched"))
            .with_context(|| format!("{} is no authority's certificate", certificate.display()))?;
        return Ok((issuer, text.clone(), false));
    }
    let pair = if let Some(pair) = kept {
        pair
    } else {
        let pair = KeyPair::generate().context("can't make a private key")?;
        write_private(&key, pair.serialize_pem().as_bytes())?;
        pair
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("stint-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, now, 10);
    let made = params.self_signed(&pair).context("can't make the authority's certificate")?.pem();
    write_private(&certificate, made.as_bytes())?;
    tracing::info!(file = %certificate.display(), "made the authority's certificate");
    Ok((Issuer::new(params, pair), made, true))
}

/// A certificate that is to be there.
struct Wanted<'a> {
    name: &'static str,
    subject: DistinguishedName,
    /// Names and addresses that it is good for.
    names: &'a BTreeSet<String>,
    /// Whether it is a client's.
    client: bool,
}

impl Wanted<'_> {
    fn ensure(&self, folder: &Path, ca: &Issuer<'static, KeyPair>, now: Timestamp) -> anyhow::Result<(Pair, bool)> {
        let path = |ending: &str| folder.join(format!("{}.{ending}", self.name));
        if let (Some(certificate), Some(key)) = (read(&path("crt"))?, read(&path("key"))?)
            && self.is_good(&certificate, &key, ca, now)
        {
            return Ok((Pair { certificate, key }, false));
        }
        let what = self.name;
        let pair = KeyPair::generate().with_context(|| format!("can't make the private key {what}"))?;
        let names: Vec<String> = self.names.iter().cloned().collect();
        let mut params = CertificateParams::new(names.clone())
            .with_context(|| format!("can't put the names {} into a certificate; see --tls-san", names.join(", ")))?;
        params.distinguished_name = self.subject.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![if self.client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth }];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, 1);
        let made = params.signed_by(&pair, ca).with_context(|| format!("can't make the certificate {what}"))?;
        let pair = Pair { certificate: made.pem(), key: pair.serialize_pem() };
        // The old certificate with the new key, after a crash in between, is seen and made again.
        write_private(&path("key"), pair.key.as_bytes())?;
        write_private(&path("crt"), pair.certificate.as_bytes())?;
        tracing::info!(file = %path("crt").display(), "made a certificate");
        Ok((pair, true))
    }

    fn is_good(&self, certificate: &str, key: &str, ca: &Issuer<'static, KeyPair>, now: Timestamp) -> bool {
        let Some(facts) = facts(certificate) else { return false };
        let Ok(key) = KeyPair::from_pem(key) else { return false };
        // Not asked of the signature: whoever can write this folder has the authority's key too.
        let authority = facts.authority_key == Some(CertificateParams::default().key_identifier(ca.key()));
        let fresh = facts.until.duration_since(now) > facts.until.duration_since(facts.from) / 3;
        let own = key.subject_public_key_info() == facts.public_key;
        authority && fresh && own && facts.names == *self.names
    }
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

/// From yesterday, for machines whose clock is late, for so many years.
fn validity(params: &mut CertificateParams, now: Timestamp, years: i64) {
    let today = jiff::tz::TimeZone::UTC.to_datetime(now).date();
    let day =
        |date: Date| rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(years.years()));
}

/// What a certificate says.
struct Facts {
    from: Timestamp,
    until: Timestamp,
    names: BTreeSet<String>,
    public_key: Vec<u8>,
    authority_key: Option<Vec<u8>>,
}

/// Reads a certificate in PEM; None: it is none.
fn facts(text: &str) -> Option<Facts> {
    let (_, pem) = parse_x509_pem(text.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok()?.map(|names| &names.value.general_names);
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(IpAddr::from(four).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|sixteen| IpAddr::from(sixteen).to_string()),
        },
        _ => None,
    };
    let authority_key = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
            id.key_identifier.as_ref().map(|id| id.0.to_vec())
        }
        _ => None,
    });
    Some(Facts {
        from: Timestamp::from_second(certificate.validity().not_before.timestamp()).ok()?,
        until: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
        names: names.into_iter().flatten().filter_map(name).collect(),
        public_key: certificate.public_key().raw.to_vec(),
        authority_key,
    })
}

/// Common name and organizations of a certificate in DER.
pub fn subject_of(der: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    Some((name, groups))
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn certificates_stay_until_they_are_due_or_their_names_change() {
        let data = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let days = |days: i64| now + SignedDuration::from_hours(24 * days);
        let first = Pki::ensure(data.path(), &set(&["localhost", "::1", "10.0.0.1"]), now).unwrap();
        assert!(first.changed);
        let again = Pki::ensure(data.path(), &set(&["10.0.0.1", "::1", "localhost"]), days(200)).unwrap();
        assert!(!again.changed && again.server.certificate == first.server.certificate);
        let named = Pki::ensure(data.path(), &set(&["localhost", "example"]), days(200)).unwrap();
        assert!(named.server.certificate != first.server.certificate && named.admin.key == first.admin.key);
        let due = Pki::ensure(data.path(), &set(&["localhost", "example"]), days(300)).unwrap();
        assert!(due.admin.certificate != first.admin.certificate, "65 of 365 days are left");
        assert_eq!(due.ca, first.ca);
        let late = Pki::ensure(data.path(), &set(&["localhost", "example"]), days(365 * 9)).unwrap();
        assert!(late.ca != first.ca);
        let key = |text: &str| facts(text).unwrap().public_key;
        assert!(key(&late.ca) == key(&first.ca), "what the old certificate has signed stays good");
    }

    #[test]
    fn a_lost_or_foreign_file_is_made_anew() {
        let data = tempfile::tempdir().unwrap();
        let (now, names) = (Timestamp::now(), set(&["localhost"]));
        let first = Pki::ensure(data.path(), &names, now).unwrap();
        // A crash between a new key and its certificate.
        let other = KeyPair::generate().unwrap().serialize_pem();
        write_private(&data.path().join("pki/server.key"), other.as_bytes()).unwrap();
        let second = Pki::ensure(data.path(), &names, now).unwrap();
        assert!(second.server.key != other && second.server.certificate != first.server.certificate);
        fs::remove_file(data.path().join("pki/ca.key")).unwrap();
        let third = Pki::ensure(data.path(), &names, now).unwrap();
        assert!(third.ca != first.ca && third.admin.certificate != first.admin.certificate);
        assert!(!Pki::ensure(data.path(), &names, now).unwrap().changed);
    }

    #[test]
    fn the_subject_of_a_certificate_is_its_user_and_groups() {
        let data = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(data.path(), &set(&["localhost"]), Timestamp::now()).unwrap();
        let (_, pem) = parse_x509_pem(pki.admin.certificate.as_bytes()).unwrap();
        assert_eq!(subject_of(&pem.contents), Some(("stint-admin".to_owned(), vec!["system:masters".to_owned()])));
        assert_eq!(subject_of(b"nothing"), None);
    }
}
