//! `Impersonate-*` headers: acting as somebody else, for whoever may.
//!
//! Upstream: `apiserver/pkg/endpoints/filters/impersonation/impersonation.go`, v1.36.
//! Left out: the narrower rights of KEP-5284 (`impersonate:user-info` and so on).

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use stint_auth::identity::{ANONYMOUS, UNAUTHENTICATED, service_account_of};
use stint_auth::{Attributes, Resource, User};

use crate::auth::{Auth, authorize};
use crate::status::{Error, Result};

const EXTRA: &str = "impersonate-extra-";

/// The user that the headers name, if `user` may act as it. None: there are no such headers.
pub(super) fn impersonate(auth: &Auth, user: &User, headers: &HeaderMap) -> Result<Option<User>> {
    // All at once first: nearly no request has any.
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let text = |value: &http::HeaderValue| match value.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::BadRequest("a header that names whom to impersonate is no text".into())),
    };
    let all = |name: &str| headers.get_all(name).iter().map(text).collect::<Result<Vec<String>>>();
    let names = all("impersonate-user")?;
    let Some(name) = names.into_iter().next().filter(|name| !name.is_empty()) else {
        return Err(Error::BadRequest(
            "impersonating groups, a uid or extras needs a user: send Impersonate-User".into(),
        ));
    };
    let mut wanted = User { groups: all("impersonate-group")?, ..User::new(&name, []) };
    wanted.uid = all("impersonate-uid")?.into_iter().next().unwrap_or_default();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            wanted.extra.insert(key, all(header.as_str())?);
        }
    }
    expect_allowed(auth, user, &wanted)?;
    if let Some((namespace, account)) = service_account_of(&name)
        && wanted.groups.is_empty()
    {
        wanted.groups = User::service_account(namespace, account).groups;
    }
    if name == ANONYMOUS {
        if !wanted.is_in(UNAUTHENTICATED) {
            wanted.groups.push(UNAUTHENTICATED.to_owned());
        }
        return Ok(Some(wanted));
    }
    Ok(Some(wanted.authenticated()))
}

/// Each part of the identity is a right of its own.
fn expect_allowed(auth: &Auth, user: &User, wanted: &User) -> Result<()> {
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let expect = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let resource = Resource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        authorize(auth, user, &Attributes::resource("impersonate", resource))
    };
    match wanted.as_service_account() {
        Some((namespace, name)) => expect("", "serviceaccounts", "", namespace, name)?,
        None => expect("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        expect("", "groups", "", "", group)?;
    }
    if !wanted.uid.is_empty() {
        expect(AUTHENTICATION, "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            expect(AUTHENTICATION, "userextras", key, "", value)?;
        }
    }
    Ok(())
}
